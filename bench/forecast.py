"""Honesty of forecasts: how often the 80 % interval given at a part of a run held what the run came to.

    python bench/forecast.py runs/*                       at one third of each run
    python bench/forecast.py --at 0.5 --metric cer runs/*

Prints one JSON line: `curves` used, `coverage` (share of runs whose lowest rate lay in the interval), `width`
(mean, in percent of WER), `width_log` (mean of log(high / low)), `error_log` (median of |log(expected / final)|),
`slowest_seconds` of a forecast, and each run by name. Left out, and counted: runs of fewer than `--evaluations`
evaluations, and runs that never spoke (no rate below 98 %).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from myna.train.forecast import SILENT_RATE, SMALLEST_RATE, foresee
from myna.train.ttq import FIRST_FORECAST, INTERVAL


def read_curve(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Steps and rates of a run's evaluations."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = {line["step"]: line[f"eval_{metric}"] for line in lines if line.get(f"eval_{metric}") is not None}
    return list(rows), list(rows.values())


def forecast_of(steps: list[int], rates: list[float], at: float) -> dict[str, Any]:
    """The forecast after the first evaluation at or beyond that part of the run, and how it ended."""
    seen = max(FIRST_FORECAST, 1 + next(number for number, step in enumerate(steps) if step >= at * steps[-1] - 1e-9))
    begun = time.perf_counter()
    low, expected, high = foresee(steps[:seen], rates[:seen], steps[seen:]).final(*INTERVAL)
    seconds = time.perf_counter() - begun
    return {
        "seen": seen,
        "evaluations": len(steps),
        "best_so_far": min(rates[:seen]),
        "low": low,
        "expected": expected,
        "high": high,
        "final": min(rates),
        "held": low <= min(rates) <= high,
        "seconds": seconds,
    }


def main() -> None:
    """Read the runs and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--metric", choices=("wer", "cer"), default="wer")
    parser.add_argument("--at", type=float, default=1 / 3)
    parser.add_argument("--evaluations", type=int, default=7)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    short = silent = 0
    for run in options.runs:
        steps, rates = read_curve(run, options.metric)
        if len(steps) < options.evaluations:
            short += 1
        elif min(rates) >= SILENT_RATE:
            silent += 1
        else:
            found[str(run)] = forecast_of(steps, rates, options.at)
    if not found:
        parser.error(f"expected runs of at least {options.evaluations} evaluations; received none")
    low, expected, high, final = (
        np.array([row[name] for row in found.values()]) + SMALLEST_RATE for name in ("low", "expected", "high", "final")
    )
    figures = {
        "curves": len(found),
        "coverage": round(float(np.mean([row["held"] for row in found.values()])), 3),
        "width": round(100 * float((high - low).mean()), 1),
        "width_log": round(float(np.log(high / low).mean()), 2),
        "error_log": round(float(np.median(np.abs(np.log(expected / final)))), 2),
        "slowest_seconds": round(max(row["seconds"] for row in found.values()), 3),
        "too_short": short,
        "silent": silent,
        "runs": {
            name: {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            for name, row in found.items()
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
