"""The epoch plan of 1,000,000 utterances: seconds, memory, real audio, and how far apart its reads are.

Prints one JSON line. Each plan is made in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time

import numpy as np

from myna.feed.epoch import BatchBudget, plan_epoch

UTTERANCES = 1_000_000
SHARDS = 250  # 4,000 utterances, about 0.5 GB of speech each
STEP_SECONDS = 320.0
STEPS_LOOKED_AT = 100  # at a time, for the number of shards they touch


def figures(by_shard: bool) -> dict[str, float]:
    """What one plan takes and gives."""
    rng = np.random.default_rng(0)
    durations = np.clip(rng.lognormal(1.6, 0.5, UTTERANCES), 0.5, 30)
    shard_of = rng.integers(0, SHARDS, UTTERANCES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    budget = BatchBudget(STEP_SECONDS)
    plan = plan_epoch(durations, budget, seed=0, epoch=1, shard_of=shard_of if by_shard else None)
    seconds = time.perf_counter() - started
    padded = sum(len(step) * durations[step].max() for step in plan.steps)
    runs = [plan.steps[start : start + STEPS_LOOKED_AT] for start in range(0, len(plan.steps), STEPS_LOOKED_AT)]
    return {
        "seconds": round(seconds, 3),
        "memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "steps": len(plan.steps),
        "real_share": round(float(durations.sum() / padded), 4),
        "shards_touched": statistics.median(len(np.unique(shard_of[np.concatenate(run)])) for run in runs),
    }


def main() -> None:
    """Measure and print."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        plain, sharded = pool.map(figures, [False, True], chunksize=1)
    print(json.dumps({"bench": "epoch", "utterances": UTTERANCES, "plain": plain, "by_shard": sharded}))


if __name__ == "__main__":
    main()
