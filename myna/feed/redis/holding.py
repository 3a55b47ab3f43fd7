"""A trainer holds its run: the lock, the description it publishes, and what to do when the server forgets either."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from redis.exceptions import RedisError

from myna.errors import FeedError
from myna.feed.redis import scripts

if TYPE_CHECKING:
    from redis import Redis

    from myna.feed.redis.connection import Link
    from myna.feed.spec import FeedSpec

logger = logging.getLogger(__name__)


class Holding:
    """One rank's hold of a run.

    Args:
        link: to the server.
        run: name of the run.
        token: of this trainer.
        spec: what is to be made.
        rank: rank 0 locks and publishes, the others wait for it.
        position: the lowest number that this rank needs.
        limit_bytes: of the container.
        lease_seconds: the lock lasts so long without a heartbeat.
        expire_seconds: the keys last so long.
    """

    def __init__(
        self,
        link: Link,
        run: str,
        token: str,
        spec: FeedSpec,
        rank: int,
        position: int,
        limit_bytes: int,
        lease_seconds: float,
        expire_seconds: float,
    ) -> None:
        self.link = link
        self.run = run
        self.prefix = f"myna:{{{run}}}:"
        self.token = token
        self.spec = spec
        self.rank = rank
        self.position = position
        self.limit_bytes = limit_bytes
        self.lease_ms = int(lease_seconds * 1000)
        self.expire_ms = int(expire_seconds * 1000)
        self._opening = threading.Lock()  # several threads may find the run gone at once
        self._touched = time.monotonic()

    def open(self) -> None:
        """Lock and publish, or wait for rank 0 to have done so; then say where this rank stands."""
        self._take_hold(anew=True)

    def call(self, name: str, *arguments: object) -> list[Any]:
        """Run a script as the holder; when the server has lost the run, publish it anew and try again."""
        while True:
            answer = self._run(name, self.token, *arguments)
            if self.judge(answer):
                return answer

    def judge(self, answer: list[Any]) -> bool:
        """Whether a script's answer stands; False after the run was found gone and has been brought back.

        Raises:
            FeedError: another trainer has the run, or its batches cannot be made.
        """
        if answer[0] == "fenced":
            raise FeedError(
                f"run {self.run} was taken over by another trainer", "Let one trainer work on a run at a time."
            )
        if answer[0] == "failed":
            raise FeedError(answer[1].decode(), answer[2].decode())
        if answer[0] != "gone":
            return True
        self._bring_back()
        return False

    def heartbeat(self, says: dict[str, Any]) -> None:
        """Renew lock and keys; what is ready is renewed four times within its expiry."""
        self.call("heartbeat", self.lease_ms, json.dumps(says))
        if time.monotonic() - self._touched > self.expire_ms / 4000:
            self._touched = time.monotonic()
            number = 0
            while number >= 0:
                answer = self._run("touch", number, 500)
                number = int(answer[1]) if answer[0] == "ok" else -1

    def let_go(self, finished: bool) -> None:
        """Let another trainer have the run; when the server cannot be told at once, the lock runs out by itself."""
        try:
            if finished:
                scripts.run(self.link.client, "finish", self.prefix, self.spec.spec_id, self.token, self.rank)
            if self.rank == 0:
                scripts.run(self.link.client, "unlock", self.prefix, self.spec.spec_id, self.token)
        except RedisError as error:
            logger.info("Run %s was left without a word to Redis: %s", self.run, error)

    def _bring_back(self) -> None:
        with self._opening:
            if self._attach() and (self.rank > 0 or self._run("heartbeat", self.token, self.lease_ms, "{}")[0] == "ok"):
                return  # another thread has done it meanwhile
            logger.warning("Run %s is not in Redis any more; it is published anew from %d.", self.run, self.position)
            self._take_hold(anew=False)

    def _take_hold(self, *, anew: bool) -> None:
        if self.rank == 0:
            published = self._lock()
            if published != self.spec.spec_id:
                self._clear()
            if anew or published != self.spec.spec_id:
                self._publish()
        else:
            self._join()
        self._attach()

    def _lock(self) -> str:
        """Lock the run and return the spec_id under which it is published, if any."""
        mine = [self.lease_ms, socket.gethostname(), this_machine(), os.getpid(), psutil.Process().create_time()]
        dead, waited_for = "", b""
        while True:
            answer = self._run("lock", self.token, *mine, dead)
            if answer[0] == "ok":
                return str(answer[1].decode())
            token, host, machine, pid, began, since_ms, left_ms = answer[1:]
            here = machine.decode() == this_machine()
            if here and not is_running(int(pid), float(began)):
                dead = token.decode()
            elif here or token == waited_for:
                since = datetime.fromtimestamp(int(since_ms) / 1000).isoformat(" ", "seconds")
                raise FeedError(
                    f"run {self.run} has a trainer already: process {int(pid)} on {host.decode()}, since {since}",
                    "Wait for it to end, stop it, or choose another name with feed.run.",
                )
            else:  # of another host: only its silence can tell whether it lives
                waited_for = token
                logger.warning("Run %s was held by %s; waiting whether it still is.", self.run, host.decode())
                self.link.closed.wait(max(0, left_ms) / 1000 + 0.02)

    def _clear(self) -> None:
        """Delete what another description left; the streams stay, since waiters stand behind their last entries."""
        stay = {f"{self.prefix}{name}".encode() for name in ("trainer", "puts", "frees")}

        def clear(client: Redis) -> None:
            client.delete(f"{self.prefix}state")  # first: nobody may go on with it
            for key in client.scan_iter(match=f"{self.prefix}*", count=1000):
                if key not in stay:
                    client.delete(key)

        self.link.call(clear)

    def _publish(self) -> None:
        spec = self.spec
        answer = self._run(
            "publish",
            self.token,
            spec.to_bytes(),
            self.position,
            spec.total,
            spec.world_size,
            self.limit_bytes,
            self.lease_ms,
            self.expire_ms,
        )
        self.judge(answer)

    def _join(self) -> None:
        """Wait until rank 0 has published."""
        until = time.monotonic() + self.link.patience_seconds
        while time.monotonic() < until:
            token, spec_id, last = self.link.call(self._read_published)
            if token and spec_id and spec_id.decode() == self.spec.spec_id:
                self.token = token.decode()
                return
            self.link.call(
                lambda client, last=last: client.xread(  # type: ignore[misc]
                    {f"{self.prefix}puts": last[0][0] if last else b"0-0"}, count=1, block=1000
                )
            )
        raise FeedError(
            f"rank {self.rank} waited {self.link.patience_seconds:.0f} s for rank 0 to publish run {self.run}",
            "See what keeps rank 0.",
        )

    def _read_published(self, client: Redis) -> tuple[bytes | None, bytes | None, list[Any]]:
        with client.pipeline(transaction=True) as pipeline:
            pipeline.hget(f"{self.prefix}trainer", "token")
            pipeline.hget(f"{self.prefix}state", "spec_id")
            pipeline.xrevrange(f"{self.prefix}puts", count=1)
            token, spec_id, last = pipeline.execute()
        return token, spec_id, last

    def _attach(self) -> bool:
        return bool(self._run("attach", self.token, self.rank, self.position)[0] == "ok")

    def _run(self, name: str, *arguments: object) -> list[Any]:
        return self.link.call(lambda client: scripts.run(client, name, self.prefix, self.spec.spec_id, *arguments))


def this_machine() -> str:
    """What process IDs mean something within: this start of this kernel, in this namespace of processes."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{boot.read_text().strip()}:{namespace.stat().st_ino}"
    return f"{socket.gethostname()}:{uuid.getnode()}"


def is_running(pid: int, began: float) -> bool:
    """Whether that very process lives, and not a later one with its number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
