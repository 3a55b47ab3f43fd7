"""Planned batches against a real limit of memory: do they run, and does 1.3 times as much fail?

Random small models and steps are planned for a machine of a random size: 85 % of what the process itself leaves free,
as on large machines, where the process hardly counts. Two steps are then taken in a process whose data segment may
not grow beyond all that is left (RLIMIT_DATA): at the planned batch, and in another at 1.3 times it.

Prints one JSON line for each configuration and one for all of them.
Run: OMP_NUM_THREADS=1 python bench/limits.py [--configurations 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import resource
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from memory import described, models, take_steps

from myna.machine import return_freed_memory
from myna.plan.memory.predict import memory_model
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.request import MemoryRequest, StepSettings

EXCESS = 1.3
OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "could not create a primitive")  # the last is oneDNN's
FEWEST, MOST = 4, 200  # clips: 1.3 times fewer are the same number, more take too long
WIDTHS = {"d_model": (128, 192, 256, 320), "hidden_size": (128, 192, 256, 320)}
DEPTHS = ("num_encoder_layers", "num_hidden_layers", "encoder_layers")


def random_case(rng: np.random.Generator) -> tuple[MemoryRequest, float, float]:
    """What is trained, seconds of a clip, and the machine's memory in GB."""
    spec = models()[str(rng.choice(["transformer", "conformer", "wav2vec2", "hubert", "whisper"]))]
    config = dict(spec.config)
    for name, widths in WIDTHS.items():
        if name in config:
            config[name] = int(rng.choice(widths))
    for name in DEPTHS:
        if name in config:
            config[name] = int(rng.integers(2, 7))
    settings = StepSettings(
        device="cpu",
        precision=str(rng.choice(["fp32", "bf16"])),  # type: ignore[arg-type]
        gradient_checkpointing=bool(rng.random() < 0.4),
        optimizer=str(rng.choice(["adamw_torch", "adamw_torch_fused", "adafactor"])),  # type: ignore[arg-type]
        accumulates=bool(rng.random() < 0.4),
    )
    request = MemoryRequest(replace(spec, config=config), settings, labels_per_second=4.0)
    return request, round(float(rng.uniform(3, 14)), 2), round(float(rng.uniform(0.95, 1.4)), 2)


def runs_in(request: MemoryRequest, clips: int, seconds: float, tensor_bytes: int) -> bool:
    """Whether two steps fit into so much memory, in a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return bool(pool.apply(_take_steps_within, (request, clips, seconds, tensor_bytes)))


def _take_steps_within(request: MemoryRequest, clips: int, seconds: float, tensor_bytes: int) -> bool:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return_freed_memory()  # as a run does
    take_steps(request, 2, 1.0)  # what libraries load at first use is not the step's
    held = int(re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (held + tensor_bytes, resource.RLIM_INFINITY))
    try:
        take_steps(request, clips, seconds)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        return False
    return True


def row(request: MemoryRequest, seconds: float, memory_gb: float) -> dict[str, object] | None:
    hardware = HardwareProfile.of_memory(memory_gb, device="cpu")
    whole = int(memory_gb * 1e9) - hardware.context_bytes
    planned = memory_model(request).largest_batch(seconds, int(hardware.safety_margin * whole))
    if not FEWEST <= planned <= MOST:
        return None
    more = math.ceil(EXCESS * planned)
    return {
        "model": request.model.name,
        "settings": described(request.settings),
        "seconds": seconds,
        "memory_gb": memory_gb,
        "planned_clips": planned,
        "planned_runs": runs_in(request, planned, seconds, whole),
        "excess_clips": more,
        "excess_runs": runs_in(request, more, seconds, whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, started, table = np.random.default_rng(arguments.seed), time.perf_counter(), []
    while len(table) < arguments.configurations:
        if found := row(*random_case(rng)):
            table.append(found)
            print(json.dumps(found), flush=True)
    figures = {
        "bench": "limits",
        "configurations": len(table),
        "planned_ran": sum(bool(found["planned_runs"]) for found in table),
        "excess_failed": sum(not found["excess_runs"] for found in table),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
