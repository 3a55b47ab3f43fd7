"""What this process may use of the machine, container limits respected."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE_BLOCK_BYTES = 8 << 20
_NVIDIA_DRIVER = Path("/proc/driver/nvidia")
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's, and its earlier name
GROWING_SEGMENTS = "expandable_segments:True"
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a huge number


def usable_cores() -> float:
    """Processor cores this process may use: affinity, then the container's quota, which may be a fraction."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota = _cgroup_text("cpu", "cpu.cfs_quota_us", "cpu.max").split()
    period = _cgroup_text("cpu", "cpu.cfs_period_us", "cpu.max").split()
    if quota and period and quota[0].isdigit() and int(period[-1]) > 0:  # no limit is "max", or -1
        cores = min(cores, int(quota[0]) / int(period[-1]))
    return cores


def usable_memory() -> tuple[int, int]:
    """Bytes of memory in total and still free, as the container's limit allows."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    limit = _cgroup_text("memory", "memory.limit_in_bytes", "memory.max")
    used = _cgroup_text("memory", "memory.usage_in_bytes", "memory.current")
    if limit.isdigit() and int(limit) < min(total, _UNLIMITED_BYTES):
        total = int(limit)
        available = max(0, min(available, total - int(used or 0)))
    return total, available


def return_freed_memory() -> bool:
    """Have the C library hand large blocks back to the system as soon as they are freed, where it is glibc.

    Its own threshold grows with every large block that is freed, up to 32 MiB, and smaller ones stay in a heap that
    falls to pieces: a Whisper step on a processor then took 1,050 MB for tensors of 505 MB. At 8 MiB no time is lost.

    Returns:
        Whether it could be done.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


def grow_cuda_segments() -> bool:
    """Have torch's memory of a card grow in place, so that batches of many shapes leave no gaps; before CUDA starts.

    Returns:
        Whether it is so from now on: on Linux with NVIDIA's driver, unless the environment already says something.
    """
    given = next((os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ), None)
    if given is None and sys.platform == "linux" and _NVIDIA_DRIVER.exists():
        given = os.environ[ALLOCATOR_VARIABLES[0]] = GROWING_SEGMENTS
    return GROWING_SEGMENTS in (given or "")


def _cgroup_text(controller: str, name_v1: str, name_v2: str) -> str:
    """A control group's file: this process's own group first, then the one mounted at the root; "" if none."""
    for folder in (*_own_cgroups(controller), _CGROUP / controller, _CGROUP):
        for name in (name_v1, name_v2):
            try:
                return (folder / name).read_text().strip()
            except OSError:
                continue
    return ""


def _own_cgroups(controller: str) -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:  # "4:memory:/path" in version 1, "0::/path" in version 2
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folders.append(_CGROUP / controllers / path.lstrip("/"))
        elif not controllers:
            folders.append(_CGROUP / path.lstrip("/"))
    return folders
