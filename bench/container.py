"""Batches through the container against raw redis-py pushing and popping the same bytes, side by side.

Prints one JSON line: medians of MB/s and of the rounds' ratios, and the ratios' range. Producers and
the trainer are processes; the raw queue knows no limit, so it may grow to all values.
Run: python bench/container.py [--megabytes 1.0] [--values 300] [--producers 1 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import redis
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from redis_server import RedisServer  # noqa: E402

from myna.feed.payload import from_bytes, to_bytes  # noqa: E402
from myna.feed.redis.container import Container  # noqa: E402
from myna.feed.redis.errors import RunDoneError  # noqa: E402
from myna.feed.spec import FeedSpec  # noqa: E402
from myna.samples import Batch  # noqa: E402

LIMIT_BYTES = 256_000_000


def spec_of(total: int) -> FeedSpec:
    return FeedSpec("v", "original", ("train",), 20.0, 100.0, 8, 0, 1, 1, total, total, False, "en", [], {}, "bench")


def batch_of(payload_bytes: int) -> Batch:
    frames = payload_bytes // (4 * 80 * 2)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, frames, 80, generator=generator).half().float()
    lengths = torch.full((4,), frames)
    labels = torch.randint(0, 50, (4, 40), generator=generator)
    return Batch(("a", "b", "c", "d"), features, lengths, labels, torch.full((4,), 40), torch.ones(4), 10.0)


def put_all(url: str, size: int, encode: bool, ready, go) -> None:
    torch.set_num_threads(1)
    batch = batch_of(size) if encode else None
    payload = os.urandom(size)
    container = Container(url, "bench")
    container.spec(30)
    ready.release()
    go.wait()
    try:
        while True:
            number = container.claim(30)
            assert number is not None
            container.put(number, to_bytes(batch) if batch is not None else payload)
    except RunDoneError:
        container.close()


def push_all(url: str, size: int, count: int, encode: bool, ready, go) -> None:
    torch.set_num_threads(1)
    batch = batch_of(size) if encode else None
    payload = os.urandom(size)
    client = redis.Redis.from_url(url, protocol=2)
    client.ping()
    ready.release()
    go.wait()
    for _ in range(count):
        client.rpush("queue", to_bytes(batch) if batch is not None else payload)


def measure(server: RedisServer, size: int, values: int, producers: int, *, raw: bool, encode: bool) -> float:
    """MB/s from the first value asked for to the last one had."""
    context = multiprocessing.get_context("fork")  # spawning would load torch each time
    ready, go = context.Semaphore(0), context.Event()
    client = server.client
    client.flushall()
    torch.set_num_threads(1)
    if raw:
        share = values // producers
        values = share * producers
        target, arguments = push_all, (server.url, size, share, encode, ready, go)
    else:
        container = Container(server.url, "bench")
        container.open(spec_of(values), start=0, limit_bytes=LIMIT_BYTES)
        target, arguments = put_all, (server.url, size, encode, ready, go)
    processes = [context.Process(target=target, args=arguments, daemon=True) for _ in range(producers)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    began = time.perf_counter()
    received = 0
    for number in range(values):
        if raw:
            payload = client.blpop("queue", timeout=30)[1]
        else:
            payload = container.take(number, 30)
            container.release(number + 1)
        received += len(payload)
        if encode:
            from_bytes(payload)
    seconds = time.perf_counter() - began
    if not raw:
        container.close(finished=True)
    for process in processes:
        process.join(20)
    client.close()
    return received / 1e6 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--values", type=int, default=300)
    parser.add_argument("--producers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size = int(arguments.megabytes * 1e6)
    figures = {}
    with RedisServer() as server:
        version = server.client.info("server")["redis_version"]
        for encode in (False, True):
            for producers in arguments.producers:
                rates: dict[bool, list[float]] = {True: [], False: []}
                for turn in range(arguments.rounds):
                    for raw in (True, False) if turn % 2 else (False, True):
                        rate = measure(server, size, arguments.values, producers, raw=raw, encode=encode)
                        rates[raw].append(rate)
                ratios = [ours / theirs for ours, theirs in zip(rates[False], rates[True], strict=True)]
                name = f"{producers} producer{'s' if producers > 1 else ''}, {'batches' if encode else 'bytes'}"
                figures[name] = {
                    "container_mb_per_second": round(statistics.median(rates[False])),
                    "raw_mb_per_second": round(statistics.median(rates[True])),
                    "ratio": round(statistics.median(ratios), 2),
                    "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                }
    about = {"benchmark": "container", "redis": version, "megabytes": arguments.megabytes, "values": arguments.values}
    print(json.dumps({**about, "rounds": arguments.rounds, "figures": figures}))


if __name__ == "__main__":
    main()
