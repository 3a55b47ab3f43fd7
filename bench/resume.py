"""Resuming at 90 % of an epoch against resuming at 10 %, on common_voice_en: seconds from the command to the next step.

Prints one JSON line. Checkpoints are saved at both places of one run; each resume is a process of its own, takes one
step and stops; the two take turns.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from myna.data.prepare import PrepareSettings, prepare

CORPUS = Path(__file__).resolve().parents[2] / "shared/corpora/common_voice_en"
TIMES = 5
SMALL = ["model.d_model=64", "model.num_encoder_layers=2", "model.d_ff=128", "model.conv_kernel_size=15"]
FIXED = ["training.bf16=false", "training.fp16=false", "training.gradient_checkpointing=false"]
FIXED += ["training.gradient_accumulation_steps=1", "training.dataloader_num_workers=1"]
FIXED += ["training.per_device_train_batch_size=4", "training.per_device_eval_batch_size=4"]
QUIET = ["training.eval_strategy=no", "training.num_train_epochs=1", "augment=[{type: speed}, {type: noise}]"]


def myna(*arguments: str) -> float:
    """Run the command line; seconds it took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "myna", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    if not CORPUS.is_dir():
        sys.exit(f"{CORPUS}: expected the corpus; there is none")
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare([str(CORPUS)], str(folder / "catalog.db"), PrepareSettings(), workers=2)
        common = [f"data.db={folder / 'catalog.db'}", *SMALL, *FIXED, *QUIET]
        whole = folder / "whole"
        myna("train", "training.max_steps=-1", f"training.output_dir={whole}", *common, "training.save_strategy=no")
        steps = json.loads((whole / "result.json").read_text())["steps"]
        places = {"at_10": max(1, steps // 10), "at_90": steps * 9 // 10}
        for place, step in places.items():
            saving = [f"training.max_steps={step}", "training.save_strategy=steps", f"training.save_steps={step}"]
            myna("train", f"training.output_dir={folder / place}", *common, *saving)
        taken: dict[str, list[float]] = {place: [] for place in places}
        for turn in range(TIMES):
            for place, step in places.items():
                copy = folder / f"{place}-{turn}"
                shutil.copytree(folder / place, copy, symlinks=True)
                taken[place].append(myna("train", "--resume", str(copy), f"training.max_steps={step + 1}"))
                shutil.rmtree(copy)
    medians = {place: round(statistics.median(seconds), 2) for place, seconds in taken.items()}
    ratio = round(medians["at_90"] / medians["at_10"], 3)
    print(json.dumps({"bench": "resume", "steps_per_epoch": steps, "times": TIMES, **medians, "ratio": ratio}))


if __name__ == "__main__":
    main()
