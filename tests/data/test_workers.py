from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from myna.data.workers import CHUNK_ITEMS, WAITING_CHUNKS, map_in_processes


def square_or_die(number: int) -> int:
    if number % 50 == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def square(number: int) -> int:
    return number * number


def test_no_processes_is_this_process():
    assert list(map_in_processes(square, range(3), 0)) == [(0, 0), (1, 1), (2, 4)]


def test_nothing_to_do_starts_nothing():
    began = time.perf_counter()
    assert list(map_in_processes(square, [], 2)) == []
    assert time.perf_counter() - began < 0.1


@pytest.mark.slow
def test_dying_processes_cost_their_items_only():
    results = dict(map_in_processes(square_or_die, range(200), 2))
    assert results == {number: None if number % 50 == 13 else number * number for number in range(200)}


@pytest.mark.slow
def test_items_are_drawn_only_as_they_are_needed():
    drawn = 0

    def items():
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn

    results = map_in_processes(square, items(), 1)
    next(results)
    assert drawn <= (WAITING_CHUNKS + 1) * CHUNK_ITEMS
    results.close()


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from myna.data.workers import map_in_processes\nprint(list(map_in_processes(abs, [1], 1)))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DataError" in done.stderr
    assert 'under `if __name__ == "__main__":`' in done.stderr
