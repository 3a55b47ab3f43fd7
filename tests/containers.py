"""Containers for tests: descriptions, payloads that tell their number, and producers as threads and processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading

import numpy as np

from myna.feed.redis.container import Container
from myna.feed.redis.errors import RunDoneError, RunGoneError
from myna.feed.spec import FeedSpec

RUN = "run-1"
LIMIT_BYTES = 32_000_000


def spec_of(total: int = 100, *, world_size: int = 1, seed: int = 0) -> FeedSpec:
    return FeedSpec(
        dataset_version="v1",
        audio="original",
        splits=("train",),
        max_duration_seconds=20.0,
        step_seconds=100.0,
        num_buckets=8,
        seed=seed,
        parts=world_size,
        world_size=world_size,
        steps_per_epoch=10,
        total=total,
        by_shard=False,
        language="en",
        augment=[],
        processor_files={},
        fingerprint="f",
        versions={},
    )


def payload_of(number: int, low_bytes: int = 1_000, high_bytes: int = 100_000) -> bytes:
    """Bytes of a length and content that only this number has."""
    rng = np.random.default_rng(number)
    return number.to_bytes(8, "little") + rng.bytes(int(rng.integers(low_bytes, high_bytes)))


def trainer(url: str, spec: FeedSpec, *, start: int = 0, limit_bytes: int = LIMIT_BYTES, **options) -> Container:
    container = Container(url, RUN, patience_seconds=options.pop("patience_seconds", 20.0))
    try:
        container.open(spec, start=start, limit_bytes=limit_bytes, **options)
    except BaseException:
        container.close()
        raise
    return container


def producer(url: str, **options) -> Container:
    container = Container(url, RUN, patience_seconds=20.0, **options)
    assert container.spec(10) is not None
    return container


def produce(url: str, stop=None, payload=payload_of, made: list[int] | None = None) -> None:
    """Make whatever is asked for until the run is done or `stop` is set."""
    container = Container(url, RUN, patience_seconds=30.0)
    try:
        while stop is None or not stop.is_set():
            try:
                if not container.spec_id and container.spec(0.2) is None:
                    continue
                number = container.claim(0.2)
                if number is not None:
                    data = payload(number)
                    while not container.put(number, data, 0.2) and not (stop is not None and stop.is_set()):
                        pass
                    if made is not None:
                        made.append(number)
            except RunGoneError:
                container.spec_id = ""
    except RunDoneError:
        pass
    finally:
        container.close()


@contextlib.contextmanager
def producing(url: str, count: int = 1, **options):
    """Producers as threads while this is open; the numbers they put."""
    stop, made = threading.Event(), []
    options.setdefault("made", made)
    threads = [threading.Thread(target=produce, args=(url, stop), kwargs=options) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@contextlib.contextmanager
def process(target, *arguments):
    """A process of its own, which is gone at the end."""
    started = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()
        started.close()


def take_all(container: Container, numbers: range, payload=payload_of) -> None:
    """Take and release; each must be there in time and be the bytes of its number."""
    for number in numbers:
        assert container.take(number, 20) == payload(number)
        container.release(number + numbers.step)
