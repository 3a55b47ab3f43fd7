"""Spreads work over processes and survives the death of any of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from myna.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_ITEMS = 16  # sent to a process at a time
WAITING_CHUNKS = 4  # per process: enough that none idles, few enough that memory stays flat


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, *, chunk_items: int = CHUNK_ITEMS
) -> Iterator[tuple[Item, Result | None]]:
    """Apply the function to every item, in any order; None is the result for an item whose process died.

    Items are drawn only as fast as they are worked on.

    Args:
        function: a picklable function that does not raise.
        items: picklable.
        workers: processes; 0 works in this one.
        chunk_items: sent to a process at a time; 1 for work that takes seconds.

    Raises:
        DataError: when not even an idle process stays alive.
    """
    items = iter(items)
    if workers == 0:
        yield from ((item, function(item)) for item in items)
        return
    first = list(islice(items, 1))
    if not first:  # starting processes takes half a second
        return
    items = chain(first, items)
    executor = _start(workers)
    pending: dict[Future[list[Result]], list[Item]] = {}
    try:
        while True:
            try:
                while len(pending) < workers * WAITING_CHUNKS and (chunk := list(islice(items, chunk_items))):
                    pending[executor.submit(_apply, function, chunk)] = chunk
            except BrokenProcessPool:  # noticed while handing out; `chunk` is in nobody's hands yet
                pending[_broken()] = chunk
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                executor.shutdown(wait=True)
                yield from _finish_one_by_one(function, pending)
                pending.clear()
                executor = _start(workers)
                continue
            for future in done:
                yield from zip(pending.pop(future), future.result(), strict=True)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _finish_one_by_one(
    function: Callable[[Item], Result], pending: dict[Future[list[Result]], list[Item]]
) -> Iterator[tuple[Item, Result | None]]:
    """A dying process takes all unfinished chunks with it; each item alone shows which one kills."""
    executor = _start(1)
    try:
        for future, chunk in pending.items():
            if future.done() and future.exception() is None:
                yield from zip(chunk, future.result(), strict=True)
                continue
            for item in chunk:
                try:
                    yield item, executor.submit(function, item).result()
                except BrokenProcessPool:
                    executor.shutdown(wait=True)
                    executor = _start(1)
                    yield item, None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(workers: int) -> ProcessPoolExecutor:
    # spawn: a forked copy of a process with threads (torch, decoders) may hang
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker)
    try:
        executor.submit(os.getpid).result()
    except BrokenProcessPool:
        executor.shutdown(wait=True)
        raise DataError(
            "expected processes that stay alive; the first one died while it started",
            'In a script, put the call under `if __name__ == "__main__":`, or pass workers=0',
        ) from None
    return executor


def begin_worker() -> None:
    """Make this process one that ends when its parent says so, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides what ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process would only call the parent's handler
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # an orphan would wait for work for ever


def _apply(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _broken() -> Future[list[Result]]:
    future: Future[list[Result]] = Future()
    future.set_exception(BrokenProcessPool())
    return future
