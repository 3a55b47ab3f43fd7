"""Whisper fine-tuned on small corpora of Common Voice, whole, by LoRA and by QLoRA: WER on the test split.

Prints one JSON line for each language. What is kept is chosen on the validation split, the untouched start included.
Kyrgyz is none of Whisper's languages: it is told Kazakh, its nearest relative among them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from myna.evaluate.hypotheses import compare_scored

SHARED = Path(__file__).resolve().parents[2] / "shared"
PROMPTED = {"ky": "kk"}  # language of the prompt where Whisper does not know the corpus's own
METHODS = {"full": "whisper-finetune", "lora": "whisper-lora", "qlora": "whisper-qlora"}


def myna(*arguments: str) -> str:
    """What the command line printed."""
    done = subprocess.run([sys.executable, "-m", "myna", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def scored(model: str | Path, folder: Path, db: Path, prompted: str) -> dict[str, float]:
    """WER with its interval; percent."""
    language = ["--language", prompted] if prompted else []
    report = json.loads(myna("evaluate", str(model), "--db", str(db), "--out", str(folder), "--json", *language))
    interval = report["wer_interval"]
    return {
        "wer": round(100 * report["scores"]["normalized"]["wer"], 1),
        "low": round(100 * interval["low"], 1),
        "high": round(100 * interval["high"], 1),
    }


def measure(
    language: str, methods: list[str], pretrained: Path, overrides: list[str], folder: Path
) -> dict[str, object]:
    """All of one language."""
    db, prompted = folder / "catalog.db", PROMPTED.get(language, "")
    myna("prepare", str(SHARED / "corpora" / f"common_voice_{language}"), "--db", str(db))
    figures: dict[str, object] = {"bench": "languages", "language": language}
    figures["untouched"] = scored(pretrained, folder / "untouched", db, prompted)
    for method in methods:
        run, began = folder / method, time.perf_counter()
        told = [f"data.db={db}", f"training.output_dir={run}", f"model.pretrained={pretrained}", *overrides]
        told += [f"model.language={prompted}"] if prompted else []
        myna("train", "--config", METHODS[method], *told)
        minutes = round((time.perf_counter() - began) / 60, 1)
        result = json.loads((run / "result.json").read_text())
        after = scored(run, folder / f"{method}-scores", db, prompted)
        difference = compare_scored(folder / "untouched", folder / f"{method}-scores")
        figures[method] = after | {
            "best_step": result["best_step"],
            "valid_wer": round(100 * result["best_metric"], 1),
            "change": round(100 * difference.rate, 1),
            "p_value": round(difference.p_value, 3),
            "minutes": minutes,
        }
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["vi", "es", "tr", "ky", "tt"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--pretrained", type=Path, default=SHARED / "models/whisper-tiny")
    parser.add_argument("--keep", type=Path, help="a folder for the runs; they are removed by default")
    parser.add_argument("overrides", nargs="*", help="section.key=value for every run")
    told = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED}: expected the corpora; there are none")
    with TemporaryDirectory() as name:
        for language in told.languages:
            folder = (told.keep or Path(name)) / language
            print(json.dumps(measure(language, told.methods, told.pretrained, told.overrides, folder)), flush=True)


if __name__ == "__main__":
    main()
