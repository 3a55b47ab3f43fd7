"""What holds a run up, trainer or producers, and what to add: one sentence in words."""

from __future__ import annotations

import math

NOTICED_SHARE = 0.02  # of the trainer's time: less waiting than this is not worth a process
MOST_TIMES = 4  # a measured wait says little about more than four times as many producers
ROOM_SHARE = 0.5  # of the limit: a trainer that waits beside a container fuller than this waits for something else
BUSY_SHARE = 0.5  # of the producers' time: those that make batches for less of it have time left

ADD_PRODUCERS = "start {count} more producer process{es} with `myna feed`"
ADD_LOADERS = "raise training.dataloader_num_workers by {count}"


def diagnose(
    wait_share: float | None,
    producers: int,
    *,
    making_share: float = 1.0,
    audio_seconds_per_second: float = 0.0,
    fill_share: float = 0.0,
    add: str = ADD_PRODUCERS,
) -> str:
    """Name the bottleneck.

    A trainer that waits a share w of its time and gets what N busy producers make could use N / (1 - w) of them.

    Args:
        wait_share: of the trainer's time, lately, [0, 1]; None when it is not known yet.
        producers: processes that make batches now.
        making_share: of the producers' time, the rest being waits for room or for a number, [0, 1].
        audio_seconds_per_second: that all producers together make; 0 when unknown.
        fill_share: of the container's limit, [0, 1].
        add: the remedy, `ADD_PRODUCERS` or `ADD_LOADERS`.
    """
    if producers == 0:
        return f"Nobody makes batches: {_remedy(add, 'at least', 1)}."
    if wait_share is None:
        return "Too early to tell what the bottleneck is."
    waits = f"The trainer waits {100 * wait_share:.0f} % of its time"
    if wait_share < NOTICED_SHARE:
        if making_share < BUSY_SHARE:
            return f"{waits}. Producers wait: the feed is ahead, nothing to add."
        return f"{waits}: nothing to add."
    if fill_share > ROOM_SHARE:
        return f"{waits} though batches are ready: the way from the container to the trainer is the bottleneck."
    if making_share < BUSY_SHARE:
        return f"{waits} and producers wait for room: the container is too small; raise feed.max_memory_gb."
    more = additional_producers(wait_share, producers, making_share)
    made = f" They make {audio_seconds_per_second:.0f} s of audio a second." if audio_seconds_per_second else ""
    return f"{waits}: producers are the bottleneck; {_remedy(add, 'about', more)}.{made}"


def additional_producers(wait_share: float, producers: int, making_share: float = 1.0) -> int:
    """Producers to add so that the trainer no longer waits; at most `MOST_TIMES` - 1 times those there are."""
    enough = producers * making_share / max(1.0 - wait_share, 1.0 / MOST_TIMES)
    return max(1, math.ceil(enough - producers - 1e-9))


def _remedy(add: str, roughly: str, count: int) -> str:
    return add.format(count=f"{roughly} {count}", es="" if count == 1 else "es")
