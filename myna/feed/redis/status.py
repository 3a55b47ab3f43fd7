"""How a container stands: what `myna feed --watch` and the log show."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from myna.errors import FeedError
from myna.feed.protocol import FeedStatus
from myna.feed.redis import scripts
from myna.feed.spec import FeedSpec

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True, slots=True)
class ProducerStatus:
    """One producer, by its own words."""

    producer_id: str
    host: str
    pid: int
    state: str  # making, waiting, "" when it has not said yet
    made: int  # batches
    audio_seconds_per_second: float  # lately
    claimed: int | None  # the number it makes
    seen_seconds_ago: float
    stats: dict[str, Any]  # all that it reports


@dataclass(frozen=True, slots=True)
class TrainerStatus:
    """The trainer, by its own words."""

    host: str
    pid: int
    taken: int  # batches, since it began
    wait_share: float | None  # of its time, lately, [0, 1]; None before its first heartbeat
    held_seconds: float  # it has had the run for so long
    seen_seconds_ago: float | None
    stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """A container at one moment."""

    run: str
    spec_id: str
    number: int  # the lowest that a rank still needs
    total: int  # numbers of the whole run
    epoch: int
    step: int  # within the epoch
    steps_per_epoch: int
    ready_batches: int
    ready_bytes: int
    claimed_batches: int  # being made or on their way
    used_bytes: int  # charged: ready batches, and room for those on their way
    limit_bytes: int
    budget_bytes: int  # of the limit, what batches may have
    high_mark_bytes: int  # from here on producers wait
    low_mark_bytes: int  # until here
    is_full: bool
    is_needed_waiting: bool  # a batch that the trainer waits for finds no room yet
    is_done: bool
    failure: str
    is_shared: bool  # the server has other keys too
    producers: tuple[ProducerStatus, ...]
    trainer: TrainerStatus | None  # None when no trainer holds the run

    def summary(self) -> FeedStatus:
        """What every feed can say of itself."""
        rate = sum(producer.audio_seconds_per_second for producer in self.producers)
        return FeedStatus(self.ready_batches, self.ready_bytes, self.limit_bytes, len(self.producers), rate)


def read_status(client: Redis, run: str, prefix: str) -> ContainerStatus | None:
    """A container as it stands; None when the run is not there."""
    content: Any = client.get(f"{prefix}spec")
    spec_id: Any = client.hget(f"{prefix}state", "spec_id")
    if content is None or spec_id is None:
        return None
    answer = scripts.run(client, "status", prefix, spec_id)
    if answer[0] == "gone":
        return None
    spec: FeedSpec | None = None
    with suppress(FeedError):  # of another version of Myna: the figures can be shown all the same
        spec = FeedSpec.from_bytes(content)
    counts = _pairs(answer[1])
    number = int(counts["number"])
    steps = number // spec.parts if spec else 0
    now_ms = float(counts["now"])
    return ContainerStatus(
        run=run,
        spec_id=spec_id.decode(),
        number=number,
        total=int(counts["total"]),
        epoch=steps // spec.steps_per_epoch if spec else 0,
        step=steps % spec.steps_per_epoch if spec else 0,
        steps_per_epoch=spec.steps_per_epoch if spec else 0,
        ready_batches=int(counts["ready"]),
        ready_bytes=int(counts["ready_bytes"]),
        claimed_batches=int(counts["claimed"]),
        used_bytes=int(counts["used"]),
        limit_bytes=int(counts["limit"]),
        budget_bytes=int(counts["budget"]),
        high_mark_bytes=int(counts["high_mark"]),
        low_mark_bytes=int(counts["low_mark"]),
        is_full=counts["full"] == "1",
        is_needed_waiting=counts["hungry"] == "1",
        is_done=counts["done"] == "1",
        failure=counts["failure"],
        is_shared=counts["shared"] == "1",
        producers=tuple(_producers(_pairs(answer[2]), _pairs(answer[3]), _pairs(answer[4]), now_ms)),
        trainer=_trainer(_pairs(answer[5]), now_ms),
    )


def _producers(
    alive: dict[str, str], reports: dict[str, str], held: dict[str, str], now_ms: float
) -> list[ProducerStatus]:
    found = []
    for producer_id in sorted(alive):
        stats: dict[str, Any] = json.loads(reports.get(producer_id, "{}"))
        found.append(
            ProducerStatus(
                producer_id=producer_id,
                host=str(stats.get("host", "")),
                pid=int(stats.get("pid", 0)),
                state=str(stats.get("state", "")),
                made=int(stats.get("made", 0)),
                audio_seconds_per_second=float(stats.get("audio_seconds_per_second", 0.0)),
                claimed=int(held[producer_id]) if producer_id in held else None,
                seen_seconds_ago=max(0.0, (now_ms - float(alive[producer_id])) / 1000),
                stats=stats,
            )
        )
    return found


def _trainer(fields: dict[str, str], now_ms: float) -> TrainerStatus | None:
    if "token" not in fields:
        return None
    stats: dict[str, Any] = json.loads(fields.get("says", "{}"))
    return TrainerStatus(
        host=fields["host"],
        pid=int(fields["pid"]),
        taken=int(stats.get("taken", 0)),
        wait_share=stats.get("wait_share"),
        held_seconds=(now_ms - float(fields["since"])) / 1000,
        seen_seconds_ago=max(0.0, (now_ms - float(fields["seen"])) / 1000) if "seen" in fields else None,
        stats=stats,
    )


def _pairs(flat: list[Any]) -> dict[str, str]:
    texts = [str(item) if isinstance(item, int) else item.decode() for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
