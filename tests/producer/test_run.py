"""Producer processes on a real Redis: the trainer's bytes, deaths, a stop in good order, and refusals."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from tiny_runs import tiny_work

from myna.errors import ConfigError, FeedError, VersionError
from myna.feed.payload import to_bytes
from myna.feed.redis.container import Container
from myna.feed.redis.feed import RedisFeed
from myna.feed.spec import FeedSpec
from myna.producer.run import ProducerReport, StopWish, run_producers
from myna.producer.start import start_producers
from myna.producer.worker import LAST_SECONDS

RUN = "tiny"
LIMIT_BYTES = 32_000_000
pytestmark = pytest.mark.slow


class Background:
    """`run_producers` in a thread; as a context it is stopped at the end."""

    def __init__(self, url: str, **options) -> None:
        self.stop = StopWish()
        self.report: ProducerReport | None = None
        self.error: Exception | None = None
        self._options = {"url": url, "run": RUN, "console": Console(quiet=True), "stop": self.stop, **options}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.express()
        self.join()

    def join(self) -> ProducerReport:
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.report is not None
        return self.report

    def _run(self) -> None:
        try:
            self.report = run_producers(**self._options)
        except Exception as error:
            self.error = error


@contextlib.contextmanager
def training(url: str, spec: FeedSpec, start: int = 0, lease_seconds: float = 2.0) -> Iterator[RedisFeed]:
    with RedisFeed(url, RUN, spec, start=start, limit_bytes=LIMIT_BYTES, lease_seconds=lease_seconds) as feed:
        yield feed


def wait_for(condition, timeout_seconds: float = 120.0):
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def status_of(url: str):
    with contextlib.closing(Container(url, RUN)) as container:
        return container.status()


def pids(url: str) -> set[int]:
    """Of producers that have said so."""
    status = status_of(url)
    return {producer.pid for producer in status.producers if producer.pid} if status else set()


def test_two_producers_with_different_roots_make_the_trainers_bytes(tone_catalog, tone_corpus, tmp_path, redis_server):
    work, spec = tiny_work(tone_catalog)
    copy = shutil.copytree(tone_corpus, tmp_path / "copy")
    root = [f"{tone_corpus.resolve()}={copy}"]
    with (
        Background(redis_server.url, db=str(tone_catalog)) as here,  # waits for the run
        Background(redis_server.url, db=str(tone_catalog), audio_root=root) as there,
        training(redis_server.url, spec, lease_seconds=60) as feed,  # none is made twice, however busy the machine
    ):
        wait_for(lambda: len(pids(redis_server.url)) == 2)  # so that both have a part in it
        for number in range(spec.total):
            assert to_bytes(feed.take(number)) == to_bytes(work.make(number)), number
        feed.close()
        reports = [here.join(), there.join()]  # they go home by themselves
    assert all(report.is_finished and report.batches > 0 for report in reports)
    assert sum(report.batches for report in reports) == spec.total
    seconds = sum(work.make(number).audio_seconds for number in range(spec.total))
    assert sum(report.audio_seconds for report in reports) == pytest.approx(seconds)


def test_a_killed_process_is_replaced_and_nothing_is_lost(tone_catalog, redis_server):
    work, spec = tiny_work(tone_catalog)
    with Background(redis_server.url, db=str(tone_catalog)) as producers, training(redis_server.url, spec) as feed:
        taken = [to_bytes(feed.take(0))]
        (first,) = wait_for(lambda: pids(redis_server.url))
        os.kill(first, signal.SIGKILL)
        taken += [to_bytes(feed.take(number)) for number in range(1, spec.total)]
        feed.close()
        report = producers.join()
    assert report.deaths == 1
    assert taken == [to_bytes(work.make(number)) for number in range(spec.total)]


def test_a_stop_gives_claims_back_and_leaves_what_is_ready(tone_catalog, redis_server):
    _, spec = tiny_work(tone_catalog)
    spec = replace(spec, total=10_000)  # more than is made meanwhile
    with training(redis_server.url, spec) as feed:
        with Background(redis_server.url, db=str(tone_catalog), processes=2) as producers:
            feed.take(0)
            wait_for(lambda: len(pids(redis_server.url)) == 2)
        report = producers.join()
        status = status_of(redis_server.url)
    assert not report.is_finished
    assert (status.claimed_batches, status.producers) == (0, ())
    assert status.ready_batches > 0


def test_sigterm_to_the_command_is_a_stop(tone_catalog, redis_server):
    _, spec = tiny_work(tone_catalog)
    spec = replace(spec, total=10_000)
    with training(redis_server.url, spec) as feed:
        producers = start_producers(redis_server.url, RUN, 1, db=str(tone_catalog))
        feed.take(0)
        os.kill(producers.pid, signal.SIGTERM)
        wait_for(lambda: not producers.are_alive)
        status = status_of(redis_server.url)
        producers.close()
    assert (status.claimed_batches, status.producers) == (0, ())


def test_a_second_wish_to_stop_does_not_wait_for_room(tone_catalog, redis_server):
    _, spec = tiny_work(tone_catalog)
    spec = replace(spec, total=10_000)
    with training(redis_server.url, spec), Background(redis_server.url, db=str(tone_catalog), processes=2) as producers:
        wait_for(lambda: (status := status_of(redis_server.url)) and status.is_full)
        producers.stop.express()
        producers.stop.express()
        asked = time.monotonic()
        assert not producers.join().is_finished
        assert time.monotonic() - asked < LAST_SECONDS


def _own_producers_and_wait(url: str, catalog: str) -> None:
    start_producers(url, RUN, 1, db=catalog)
    time.sleep(600)


def test_started_producers_end_with_their_owner_however_it_dies(tone_catalog, redis_server):
    _, spec = tiny_work(tone_catalog)
    spec = replace(spec, total=10_000)
    with training(redis_server.url, spec) as feed:
        context = multiprocessing.get_context("spawn")
        owner = context.Process(target=_own_producers_and_wait, args=(redis_server.url, str(tone_catalog)))
        owner.start()
        feed.take(0)
        (producer,) = (psutil.Process(pid) for pid in wait_for(lambda: pids(redis_server.url)))
        owner.kill()
        owner.join()
        wait_for(lambda: not producer.is_running() or producer.status() == psutil.STATUS_ZOMBIE)
        status = status_of(redis_server.url)
    assert (status.claimed_batches, status.producers) == (0, ())


def test_producers_go_on_when_the_server_is_restarted_and_when_another_trainer_comes(tone_catalog, redis_server):
    work, spec = tiny_work(tone_catalog)
    other_work, other = tiny_work(tone_catalog, "augment=[]")
    with Background(redis_server.url, db=str(tone_catalog)) as producers:
        with training(redis_server.url, replace(spec, total=10_000)) as feed:
            feed.take(0)
            redis_server.restart()
            assert to_bytes(feed.take(1)) == to_bytes(work.make(1))
        with training(redis_server.url, other, start=5) as feed:
            for number in range(5, other.total):
                assert to_bytes(feed.take(number)) == to_bytes(other_work.make(number))
            feed.close()
            assert producers.join().is_finished


def test_a_batch_that_cannot_be_made_ends_the_trainer_with_its_number_and_the_reason(
    tone_catalog, tmp_path, redis_server
):
    db = shutil.copy(tone_catalog, tmp_path / "catalog.db")
    noises = tmp_path / "noises"
    shutil.copytree(Path(tone_catalog).parent / "corpus" / "clips", noises)
    _, spec = tiny_work(db, f"augment=[{{type: background, folder: {noises}, probability: 1.0}}]")
    with Background(redis_server.url, db=str(db)) as producers, training(redis_server.url, spec) as feed:
        feed.take(0)
        shutil.rmtree(noises)
        with pytest.raises(FeedError, match=r"batch \d+ could not be made in 3 tries: .*noises"):
            for number in range(1, spec.total):
                feed.take(number)
        assert producers.error is None  # they wait for a trainer that resumes


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"seed": 1}, FeedError, "expected work with fingerprint"),
        ({"dataset_version": "0123456789abcdef"}, VersionError, "Copy the trainer's catalog"),
    ],
)
def test_a_mismatch_ends_the_command(tone_catalog, redis_server, changes, error, said):
    _, spec = tiny_work(tone_catalog)
    with (
        training(redis_server.url, replace(spec, **changes)),
        pytest.raises(error, match=said),
        Background(redis_server.url, db=str(tone_catalog), processes=2) as producers,
    ):
        producers.join()


def test_an_address_without_a_server_is_told_at_once(tone_catalog):
    with pytest.raises(FeedError, match="cannot be reached"):
        run_producers("redis://127.0.0.1:1/0", RUN, db=str(tone_catalog), console=Console(quiet=True))
    with pytest.raises(ConfigError, match="--processes"):
        run_producers("redis://127.0.0.1:1/0", RUN, db=str(tone_catalog), processes=0)
