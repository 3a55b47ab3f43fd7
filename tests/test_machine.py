from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from myna import machine


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "200000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_cores_keep_to_the_quota(
    files: dict[str, str], cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup(tmp_path, files, monkeypatch)
    assert machine.usable_cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000000", "memory.current": "400000"},
        {"memory/memory.limit_in_bytes": "1000000", "memory/memory.usage_in_bytes": "400000"},
    ],
)
def test_memory_keeps_to_the_limit(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup(tmp_path, files, monkeypatch)
    assert machine.usable_memory() == (1_000_000, 600_000)


@pytest.mark.parametrize("limit", ["max", str((1 << 63) - 4_096)])
def test_memory_without_a_limit_is_the_machine_s(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup(tmp_path, {"memory.max": limit, "memory.current": "400000"}, monkeypatch)
    total, available = machine.usable_memory()
    assert total > available > 10**8


def cgroup(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A control group tree that holds these files."""
    monkeypatch.setattr(machine, "_CGROUP", folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + "\n")


def test_freed_blocks_go_back_to_the_system_though_small_ones_lie_between_them():
    code = (
        "import numpy as np, psutil\n"
        "from myna.machine import return_freed_memory\n"
        "assert return_freed_memory()\n"
        "np.ones(3 << 20)\n"  # freed: the C library would now keep blocks of up to this size
        "blocks = [(np.ones(2 << 20), bytearray(100_000)) for _ in range(10)]\n"
        "small = [block[1] for block in blocks]\n"
        "held = psutil.Process().memory_info().rss\n"
        "del blocks\n"
        "print(held - psutil.Process().memory_info().rss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 150e6  # of 168 MB


@pytest.mark.parametrize("variable", ["", *machine.ALLOCATOR_VARIABLES])
def test_segments_of_a_card_grow_unless_something_else_is_asked_for(monkeypatch, tmp_path, variable):
    for name in machine.ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "_NVIDIA_DRIVER", tmp_path / "none")
    assert machine.grow_cuda_segments() is False
    assert not set(machine.ALLOCATOR_VARIABLES) & os.environ.keys()
    monkeypatch.setattr(machine, "_NVIDIA_DRIVER", tmp_path)
    if variable:
        monkeypatch.setenv(variable, "max_split_size_mb:128")
    assert machine.grow_cuda_segments() is (not variable and sys.platform == "linux")
    expected = "max_split_size_mb:128" if variable else "expandable_segments:True"
    assert os.environ[variable or "PYTORCH_ALLOC_CONF"] == expected
    assert len(set(machine.ALLOCATOR_VARIABLES) & os.environ.keys()) == 1
