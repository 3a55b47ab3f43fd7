"""`myna feed --engine ray`: the same producers, scheduled over the hosts of a Ray cluster."""

from __future__ import annotations

import contextlib
import time
import uuid
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from myna.errors import ConfigError, MissingExtraError, MynaError
from myna.feed.redis.connection import connect, place_of
from myna.feed.redis.container import PATIENCE_SECONDS
from myna.producer.display import Display
from myna.producer.embedded import EMBEDDED
from myna.producer.recordings import DataPath, parse_audio_root
from myna.producer.run import ProducerReport, StopWish
from myna.producer.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_RESTARTS = 100  # of an actor whose process or host died
LISTENS_SECONDS = 0.5
ANSWER_SECONDS = 5.0  # for producers that say how they do
OBJECT_STORE_BYTES = 80_000_000  # the least that Ray takes: batches go through Redis


class RayProducer:
    """An actor: one producer, in a process that Ray places where a core is free."""

    def __init__(self, url: str, run: str, data: DataPath, patience_seconds: float) -> None:
        import torch

        from myna.feed.redis.container import Container
        from myna.producer.worker import Producer

        torch.set_num_threads(1)
        container = Container(url, run, producer_id=uuid.uuid4().hex, patience_seconds=patience_seconds)
        self._producer = Producer(container, data)

    def produce(self) -> tuple[bool, Tally] | MynaError:
        """Until the run is finished or `stop` is called; an error of the user's is the answer, not a failed task."""
        try:
            return self._producer.run(), self._producer.tally
        except MynaError as error:
            return error

    def tally(self) -> Tally:
        """What was done so far."""
        return self._producer.tally

    def stop(self) -> None:
        """Finish the batch in hand."""
        self._producer.stop()


def run_on_ray(
    url: str,
    run: str,
    *,
    db: str = "",
    shards: str = "",
    audio_root: Sequence[str] = (),
    processes: int = 1,
    console: Console | None = None,
    stop: StopWish | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> ProducerReport:
    """As `run_producers`, with processes that Ray places on the hosts of a cluster: the one that RAY_ADDRESS or this
    host belongs to, else one of this host alone.

    Every host needs Myna, and the data path must mean the same on all of them.

    Raises:
        As `run_producers`.
        MissingExtraError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray")
    import ray

    data = DataPath(db, shards, parse_audio_root(audio_root))
    if processes < 1:
        raise ConfigError([f"--processes: expected 1 or more; received {processes}"])
    if url == EMBEDDED or url.startswith("unix:"):
        raise ConfigError(["--engine ray: expected a Redis that other hosts reach; received one of this host alone"])
    console, stop = console or Console(stderr=True), stop or StopWish()
    connect(url).close()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_cluster(processes))
        actor = ray.remote(num_cpus=1, max_restarts=MAX_RESTARTS, max_task_retries=-1, max_concurrency=3)(RayProducer)
        producers = [actor.remote(url, run, data, patience_seconds) for _ in range(processes)]
        tasks = [producer.produce.remote() for producer in producers]
        stack.enter_context(stop.on_signals())
        display = stack.enter_context(Display(console, run, place_of(url)))
        results = _attend(producers, tasks, stop, display)
    total = sum((tally for _, tally in results), Tally())
    is_finished = any(finished for finished, _ in results)
    return ProducerReport.of(run, is_finished, total, time.monotonic() - started, processes)


def _attend(producers: list[Any], tasks: list[Any], stop: StopWish, display: Display) -> list[tuple[bool, Tally]]:
    """Wait until all have ended; what each did."""
    import ray

    heard, pending = 0, tasks
    while pending:
        if stop.urgency > heard:
            heard = stop.urgency
            if heard > 1:
                return []  # leaving the cluster ends them
            display.note("Finishing the batches in hand; once more ends at once.")
            for producer in producers:
                producer.stop.remote()
        done, pending = ray.wait(pending, timeout=LISTENS_SECONDS)
        for result in ray.get(done):
            if isinstance(result, MynaError):
                raise result
        ready, _ = ray.wait(
            [producer.tally.remote() for producer in producers], num_returns=len(producers), timeout=5.0
        )
        display.show(len(pending), sum(ray.get(ready), Tally()))
    return list(ray.get(tasks))


@contextlib.contextmanager
def _cluster(processes: int) -> Iterator[None]:
    """Ray, joined or started here; a caller who has joined already stays so."""
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"log_to_driver": False, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    try:
        ray.init(address="auto", **options)
    except ConnectionError:  # no cluster
        ray.init(num_cpus=processes, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **options)
    try:
        yield
    finally:
        ray.shutdown()
