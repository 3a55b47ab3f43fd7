"""Whisper fine-tuned in short context: WER and decoding time in short and full context, as the untouched start has.

Trains a run unless its folder is there, then scores a split. Prints one JSON line; intervals are 95 % of a bootstrap
over utterances.
Run: python bench/context.py CATALOG RUN [--split test] [--model ../shared/models/whisper-tiny] [section.key=value ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from myna.config import load_config  # noqa: E402
from myna.data.catalog import Catalog  # noqa: E402
from myna.intervals import rate_interval  # noqa: E402
from myna.models.audio_context import AudioContext  # noqa: E402
from myna.models.build import load_recognizer  # noqa: E402
from myna.models.recognizer import DecodeOptions  # noqa: E402
from myna.train.context_check import Errors, count_errors_in, judge  # noqa: E402
from myna.train.run import train  # noqa: E402

BATCH_SECONDS = 120.0  # padded audio of a batch, as `myna evaluate` has it


def interval(errors: Errors) -> list[float]:
    """Of the error rate, in percent."""
    found = rate_interval(errors[:, 0], errors[:, 1], [""] * len(errors))
    return [round(100 * bound, 1) for bound in (found.low, found.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("catalog")
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default=str(ROOT.parent / "shared" / "models" / "whisper-tiny"))
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    settings = [f"data.db={given.catalog}", f"training.output_dir={given.run}", f"model.pretrained={given.model}"]
    config = load_config(["whisper-finetune"], [*settings, *given.overrides])
    if not given.run.exists():
        train(config)
    with Catalog(given.catalog) as catalog:
        utterances = list(catalog.utterances(catalog.version("").version_id, given.split))
    audio_seconds = sum(utterance.duration_seconds for utterance in utterances)
    short = AudioContext(config.model.audio_context_margin_seconds)
    figures, found = {}, {}
    runs = {"start": given.model, "start, short": given.model, "full": given.run, "short": given.run}
    for name, model in runs.items():
        context = short if name.endswith("short") else None
        recognizer = load_recognizer(model)
        started, cpu_started = time.perf_counter(), time.process_time()
        errors = found[name] = count_errors_in(recognizer, utterances, context, "wer", BATCH_SECONDS, DecodeOptions())
        figures[name] = {
            "wer": round(100 * errors[:, 0].sum() / errors[:, 1].sum(), 2),
            "interval": interval(errors),
            "real_time_factor": round((time.perf_counter() - started) / audio_seconds, 4),
            "cpu_seconds_per_second": round((time.process_time() - cpu_started) / audio_seconds, 4),
        }
    for name, less in (("start, short", "start"), ("short", "full"), ("short", "start"), ("full", "start")):
        verdict = judge(found[name], found[less], context=short, start_rate=None, metric="wer")
        figures[f"{name} less {less}"] = [round(100 * bound, 2) for bound in verdict.interval or ()]
    about = {"benchmark": "context", "split": given.split, "clips": len(utterances)}
    print(json.dumps(about | {"learned": load_recognizer(given.run).processor.context} | figures))


if __name__ == "__main__":
    main()
