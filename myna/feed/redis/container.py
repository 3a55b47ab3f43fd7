"""The container: numbered batches on their way from producers to one run's trainer.

Every decision is a script that Redis runs as one step (*.lua beside this file; prelude.lua has the idea). What
Python adds: waiting without sleeping, and going on when the server was away.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

from redis.exceptions import OutOfMemoryError

from myna.errors import FeedError
from myna.feed.redis import scripts
from myna.feed.redis.connection import LONGEST_WAIT_SECONDS, Link, connect, place_of
from myna.feed.redis.errors import RunDoneError, RunGoneError
from myna.feed.redis.holding import Holding
from myna.feed.redis.status import ContainerStatus, read_status
from myna.feed.spec import FeedSpec

if TYPE_CHECKING:
    from redis import Redis

LARGEST_PAYLOAD_BYTES = 512_000_000  # Redis refuses more in one value
ENOUGH_TRIES = 3  # of a batch whose making fails
PATIENCE_SECONDS = 600.0
RUN_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
# Redis keeps a buffer of a payload's size for the next one. An argument of 32 KB at the end of what is sent takes it
# over, and frees it.
BUFFER_BYTES = 32 * 1024


class Container:
    """One run's container, seen by its trainer or by a producer; one object for each of them.

    Calls may come from several threads. Each waits while the server is away, up to `patience_seconds`.

    Args:
        url: of the server, as `connect` takes it.
        run: name of the run; the container's keys all begin with myna:{run}:
        producer_id: who asks, where that should outlive this object; one of its own by default.
        patience_seconds: how long the server may be away.

    Raises:
        FeedError: the server cannot be used, or the name cannot.
    """

    def __init__(
        self, url: str, run: str, *, producer_id: str | None = None, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        if not RUN_NAME.fullmatch(run):
            raise FeedError(
                f"expected a run's name of letters, digits, '.', '_' and '-'; received {run!r}", "Rename the run."
            )
        self.run = run
        self.prefix = f"myna:{{{run}}}:"
        self.identity = producer_id or uuid.uuid4().hex
        self.lease_seconds = 10.0  # of the published run, once `spec` or `open` has told
        self.expire_seconds = 3600.0
        self.spec_id = ""
        self.producers = 0  # alive when the trainer last waited
        self._link = Link(connect(url), place_of(url), patience_seconds)
        self._holding: Holding | None = None  # a trainer's

    # ---- the trainer ----

    def open(
        self,
        spec: FeedSpec,
        *,
        start: int,
        limit_bytes: int,
        lease_seconds: float = 10.0,
        expire_seconds: float = 3600.0,
        rank: int = 0,
    ) -> None:
        """Take the run and publish what is to be made; ranks above 0 wait until rank 0 has.

        Batches that are ready under the same spec stay, from `start` on. Everything else of the run goes.

        Args:
            spec: what batches are made from.
            start: the lowest number still needed.
            limit_bytes: that the container may take.
            lease_seconds: a producer that is silent for so long has lost its claim, a trainer its run.
            expire_seconds: what remains once nobody renews it.
            rank: of the caller, from 0. Let ranks above 0 call after rank 0 has returned.

        Raises:
            FeedError: another trainer lives on this run, or the server cannot be used.
        """
        self.spec_id, self.lease_seconds, self.expire_seconds = spec.spec_id, lease_seconds, expire_seconds
        self._holding = Holding(
            self._link, self.run, self.identity, spec, rank, start, limit_bytes, lease_seconds, expire_seconds
        )
        self._holding.open()

    def take(self, number: int, timeout_seconds: float | None = None) -> bytes | None:
        """The payload of a number, which stays until it is released; None when it is not there in time.

        Raises:
            FeedError: it cannot be made, another trainer took the run over, or the server stayed away.
        """
        until = _deadline(timeout_seconds)
        while True:
            answer, payload = self._look(number)
            if answer[0] == "there" and payload is not None:
                return payload
            if answer[0] == "wait":
                self.producers = answer[2]
                if not self._wait("puts", answer[1], until):
                    return None

    def release(self, number: int) -> None:
        """Free every batch of this rank below a number: it is the next that the rank needs.

        Raises:
            FeedError: another trainer took the run over, or the server stayed away.
        """
        holding = self._held()
        holding.position = max(holding.position, number)
        holding.call("release", holding.rank, number)

    def heartbeat(self, says: dict[str, Any] | None = None) -> None:
        """Keep the run; call it a few times a lease from rank 0. `says` is shown by `status`.

        Raises:
            FeedError: another trainer took the run over, or the server stayed away.
        """
        self._held().heartbeat(says or {})

    def close(self, *, finished: bool = False) -> None:
        """Let go: a trainer of its run, whose ready batches stay for whoever resumes it.

        Args:
            finished: this rank has used all its numbers; when all ranks have, producers go home.
        """
        if self._holding is not None:
            self._holding.let_go(finished)
            self._holding = None
        self._link.close()

    # ---- a producer ----

    def spec(self, timeout_seconds: float | None = None) -> FeedSpec | None:
        """What the run's trainer wants made, and from now on claims are for that; None when nobody says so in time.

        Call it first, and after every `RunGoneError`.
        """
        until = _deadline(timeout_seconds)
        while True:
            content, fields, last = self._link.call(self._read_spec)
            spec_id, lease_ms, expire_ms = fields
            if content and spec_id and lease_ms and expire_ms:
                spec = FeedSpec.from_bytes(content)
                if spec.spec_id == spec_id.decode():
                    self.spec_id = spec.spec_id
                    self.lease_seconds, self.expire_seconds = int(lease_ms) / 1000, int(expire_ms) / 1000
                    return spec
            if not self._wait("frees", last[0][0] if last else b"0-0", until):
                return None

    def claim(self, timeout_seconds: float | None = None) -> int | None:
        """The number to make next; None when there is none in time: the container is full, or all are being made.

        A producer holds one claim at most: until it is put, given back or lost, the same number is returned.

        Raises:
            RunGoneError: the run is not there, or no more the one of the last `spec`.
            RunDoneError: all its batches have been used.
        """
        until = _deadline(timeout_seconds)
        while True:
            answer = self._ask("claim", self.identity)
            if answer[0] == "claim":
                return int(answer[1])
            if not self._wait("frees", answer[1], until, answer[2]):
                return None

    def renew(self) -> int | None:
        """Renew the lease, well before it runs out; the number held, or None.

        Raises:
            RunGoneError, RunDoneError: as in `claim`.
        """
        return self._say("")

    def report(self, stats: dict[str, Any]) -> int | None:
        """`renew`, and say how this producer does; `status` shows it.

        Args:
            stats: among others made (batches), audio_seconds_per_second, state (making, waiting).

        Raises:
            RunGoneError, RunDoneError: as in `claim`.
        """
        return self._say(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **stats}))

    def put(self, number: int, payload: bytes, timeout_seconds: float | None = None) -> bool:
        """Hand a batch in: True when that is settled, False when there was no room in time and the claim is kept.

        Settled: it is there, or it is not wanted any more: its lease was lost to another, the trainer is past it, or
        this producer's claim has become a number that the trainer waits for. Putting twice changes nothing.

        Raises:
            FeedError: the payload is larger than Redis takes.
            RunGoneError: as in `claim`.
        """
        if len(payload) > LARGEST_PAYLOAD_BYTES:
            raise FeedError(
                f"expected a batch of at most {LARGEST_PAYLOAD_BYTES / 1e6:.0f} MB; batch {number} has "
                f"{len(payload) / 1e6:.1f} MB",
                "Make batches smaller: more micro-batches a step.",
            )
        until = _deadline(timeout_seconds)
        while True:
            answer = self._ask("reserve", self.identity, number, len(payload))
            if answer[0] in ("there", "unwanted", "lost", "yield"):
                return True
            if answer[0] == "go":
                if self._link.call(lambda client: self._send(client, number, payload)):
                    return True
            elif not self._wait("frees", answer[1], until, answer[2]):
                return False

    def fail(self, number: int, why: str) -> None:
        """The batch cannot be made here; after three tries, whoever's, the trainer ends and says why.

        Raises:
            RunGoneError: as in `claim`.
        """
        self._ask("fail", self.identity, number, why[:1000], ENOUGH_TRIES)

    def give_back(self) -> None:
        """Let another make the claimed number."""
        self._ask("leave", self.identity, 0)

    def leave(self) -> None:
        """`give_back`, and be a producer of this run no more."""
        if self.spec_id:
            self._run("leave", self.identity, 1)

    # ---- both ----

    def status(self) -> ContainerStatus | None:
        """How things stand; None when the run is not there."""
        return self._link.call(lambda client: read_status(client, self.run, self.prefix))

    def _held(self) -> Holding:
        if self._holding is None:
            raise FeedError("the container is not open", "Open it before batches are taken.")
        return self._holding

    def _run(self, name: str, *arguments: object) -> list[Any]:
        return self._link.call(lambda client: scripts.run(client, name, self.prefix, self.spec_id, *arguments))

    def _ask(self, name: str, *arguments: object) -> list[Any]:
        answer = self._run(name, *arguments)
        if answer[0] == "gone":
            raise RunGoneError(f"run {self.run} is not there, or is another by now", "Wait for its trainer.")
        if answer[0] == "done":
            raise RunDoneError(f"every batch of run {self.run} has been used", "Nothing is left to do.")
        return answer

    def _say(self, text: str) -> int | None:
        held = int(self._ask("renew", self.identity, text)[1])
        return None if held < 0 else held

    def _look(self, number: int) -> tuple[list[Any], bytes | None]:
        """Whether a number is there, and its payload: one round trip."""
        holding = self._held()

        # One transaction, so that what it says and what it gives belong together
        def look(client: Redis) -> tuple[list[Any], bytes | None]:
            with client.pipeline(transaction=True) as pipeline:
                scripts.call(pipeline, "look", self.prefix, self.spec_id, holding.token, number)
                pipeline.get(self._key(number))
                answer, payload = pipeline.execute()
            return [answer[0].decode(), *answer[1:]], payload

        answer, payload = self._link.call(look)
        holding.judge(answer)
        return answer, payload

    def _send(self, client: Redis, number: int, payload: bytes) -> bool:
        """Send a payload whose room is reserved; False when the server has no memory for it after all."""
        arguments = (self.prefix, self.spec_id, self.identity, number, len(payload))
        with client.pipeline(transaction=False) as pipeline:  # one transaction, and a command behind it
            pipeline.execute_command("MULTI")  # type: ignore[no-untyped-call]
            scripts.call(pipeline, "commit", *arguments)
            pipeline.set(self._key(number), payload, xx=True, px=int(self.expire_seconds * 1000))
            pipeline.execute_command("EXEC")  # type: ignore[no-untyped-call]
            pipeline.type(self.prefix.encode().ljust(BUFFER_BYTES, b"-"))
            *_, queued, done, _kind = pipeline.execute(raise_on_error=False)
        if isinstance(queued, OutOfMemoryError) or isinstance(done, OutOfMemoryError):
            scripts.run(client, "full", self.prefix, self.spec_id, self.identity, number)
            return False
        for answer in (done, *(done if isinstance(done, list) else ())):
            if isinstance(answer, Exception):
                raise answer
        if done[0][0] == b"gone":
            raise RunGoneError(f"run {self.run} is not there, or is another by now", "Wait for its trainer.")
        return True

    def _read_spec(self, client: Redis) -> tuple[bytes | None, list[bytes | None], list[Any]]:
        with client.pipeline(transaction=True) as pipeline:
            pipeline.get(f"{self.prefix}spec")
            pipeline.hmget(f"{self.prefix}state", ["spec_id", "lease", "expire"])
            pipeline.xrevrange(f"{self.prefix}frees", count=1)
            content, fields, last = pipeline.execute()
        return content, fields, last

    def _wait(self, stream: str, last: bytes, until: float, at_most_ms: int = -1) -> bool:
        """Sleep until the stream goes on behind `last`, or it is worth looking again; False when time is up."""
        seconds = min(until - time.monotonic(), LONGEST_WAIT_SECONDS)
        if seconds <= 0:
            return False
        if at_most_ms >= 0:
            seconds = min(seconds, at_most_ms / 1000)
        block_ms = max(1, int(seconds * 1000))
        self._link.call(lambda client: client.xread({f"{self.prefix}{stream}": last}, count=1, block=block_ms))
        return True

    def _key(self, number: int) -> str:
        return f"{self.prefix}b:{self.spec_id}:{number}"


def _deadline(timeout_seconds: float | None) -> float:
    return time.monotonic() + (float("inf") if timeout_seconds is None else timeout_seconds)
