"""Fine-tuning Whisper: the plain recipe against `myna train`, both on the same clips and this machine, in turns.

The plain recipe is the tutorial that everybody copies: features of 30 s made once in advance by
WhisperFeatureExtractor, a fixed batch size, Seq2SeqTrainer. What it makes in advance is not counted, and its audio
comes from our decoder. Each side is a process group of its own; while one takes a turn of some updates the other is
stopped, so both meet the same machine. A step counts from the end of the one before, validation and checkpoints left
out. The first turn warms up.

The start, the plain recipe's last weights and our run's best checkpoint then transcribe the test split by the same
code; word errors are resampled over utterances for the 95 % intervals.

Prints one JSON line.
Run: python bench/plain_recipe.py [--updates 140] [--batch 16] [--corpus common_voice_es --language es] [key=value ...]
Every key=value goes to our side.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared"
SIDES = ("plain", "ours")


# One side, in a process of its own


def report_to(descriptor: int, clips_per_update: int | None) -> None:
    """Have every trainer of this process tell its steps, and what interrupts them, as JSON lines."""
    from transformers import TrainerCallback, trainer

    class Report(TrainerCallback):  # type: ignore[misc]
        clips = 0

        def tell(self, event: str, state: Any) -> None:
            line = {"event": event, "step": state.global_step, "clips": self.clips}
            os.write(descriptor, (json.dumps(line) + "\n").encode())

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.tell("begin", state)

        def on_step_end(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
            # Our side counts what it took, all but its first batch.
            self.clips = clips_per_update * state.global_step if clips_per_update else taken(train_dataloader)
            self.tell("step", state)

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.tell("evaluated", state)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.tell("saved", state)

    trainer.DEFAULT_CALLBACKS.append(Report)


def taken(loader: Any) -> int:
    return int(loader.dataset.all_along.utterances)


def train_plainly(arguments: argparse.Namespace, folder: Path) -> None:
    """The tutorial's code, but for the source of the samples."""
    import torch
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    from myna.audio.decode import decode
    from myna.data.catalog import Catalog

    extractor = WhisperFeatureExtractor.from_pretrained(arguments.model)
    tokenizer = WhisperTokenizer.from_pretrained(arguments.model, language=arguments.language, task="transcribe")
    # Not told so, transformers 5 would train in the half precision that the weights are stored in, and fail on a CPU.
    model = WhisperForConditionalGeneration.from_pretrained(arguments.model, dtype=torch.float32)
    model.generation_config.language = arguments.language
    model.generation_config.task = "transcribe"
    model.generation_config.forced_decoder_ids = None
    with Catalog(folder / "catalog.db") as catalog:
        utterances = list(catalog.utterances(catalog.version("").version_id, "train"))
    rng = np.random.default_rng(0)
    rng.shuffle(utterances)
    rows = [  # no more than will be trained on
        {
            "input_features": extractor(
                decode(utterance.audio_path, sample_rate_hz=16_000).samples, sampling_rate=16_000
            ).input_features[0],
            "labels": tokenizer(utterance.transcript).input_ids,
        }
        for utterance in utterances[: arguments.updates * arguments.batch]
    ]

    def collate(features: list[dict[str, Any]]) -> Any:
        batch = extractor.pad([{"input_features": row["input_features"]} for row in features], return_tensors="pt")
        padded = tokenizer.pad([{"input_ids": row["labels"]} for row in features], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        if (labels[:, 0] == model.config.decoder_start_token_id).all():
            labels = labels[:, 1:]
        return batch | {"labels": labels}

    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(folder / "plain-checkpoints"),
            per_device_train_batch_size=arguments.batch,
            max_steps=arguments.updates,
            learning_rate=arguments.learning_rate,
            warmup_steps=0.1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_drop_last=True,
            use_cpu=arguments.cpu,
        ),
        train_dataset=rows,
        data_collator=collate,
    )
    trainer.train()
    trainer.save_model(folder / "plain")
    extractor.save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")


def train_ours(arguments: argparse.Namespace, folder: Path) -> None:
    """`myna train` with its preset."""
    from myna.config import load_config
    from myna.train.run import train

    given = [
        f"data.db={folder / 'catalog.db'}",
        f"model.pretrained={arguments.model}",
        f"model.language={arguments.language}",
        f"training.output_dir={folder / 'ours'}",
        f"training.max_steps={arguments.updates}",
        f"training.effective_batch_size={arguments.batch}",
        f"training.learning_rate={arguments.learning_rate}",
    ]
    train(load_config(["whisper-finetune"], [*given, *arguments.overrides]))


# Both sides, in turns


class Side:
    """A process group that trains, and stands still unless it has its turn."""

    def __init__(self, name: str, folder: Path) -> None:
        reading, writing = os.pipe()
        command = [sys.executable, __file__, *sys.argv[1:], f"--side={name}", f"--folder={folder}"]
        with (folder / f"{name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--events={writing}"], stdout=log, stderr=log, pass_fds=[writing], start_new_session=True
            )
        os.close(writing)
        self.name = name
        self.log = folder / f"{name}.log"
        self.events = os.fdopen(reading)
        self.clips = 0
        self.step = 0
        self._mark = 0.0  # where the step that runs began
        self._next()  # begins to train
        self.rest()

    def rest(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def turn(self, last_step: int) -> tuple[int, float]:
        """Train up to a step; clips and seconds of steps alone."""
        os.killpg(self.process.pid, signal.SIGCONT)
        self._mark, clips_before, seconds = time.perf_counter(), self.clips, 0.0
        while self.step < last_step:
            event = self._next()
            now = time.perf_counter()
            if event["event"] == "step":
                seconds += now - self._mark
                self.step, self.clips = event["step"], event["clips"]
            self._mark = now
        self.rest()
        return self.clips - clips_before, seconds

    def finish(self) -> None:
        """Whatever comes after the last step."""
        os.killpg(self.process.pid, signal.SIGCONT)
        if self.process.wait():
            sys.exit(f"{self.name} failed:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _next(self) -> dict[str, Any]:
        line = self.events.readline()
        if not line:
            self.finish()
            sys.exit(f"{self.name} ended early:\n{self.log.read_text()[-3000:]}")
        event: dict[str, Any] = json.loads(line)
        return event


def take_turns(folder: Path, updates: int, turn: int) -> dict[str, list[tuple[int, float]]]:
    """(clips, seconds) of each turn of each side."""
    turns: dict[str, list[tuple[int, float]]] = {name: [] for name in SIDES}
    sides: list[Side] = []
    try:
        sides.extend(Side(name, folder) for name in SIDES)
        for number, first in enumerate(range(0, updates, turn)):
            for side in sides if number % 2 else sides[::-1]:
                turns[side.name].append(side.turn(min(updates, first + turn)))
        for side in sides:
            side.finish()
    finally:
        for side in sides:
            side.stop()
    return turns


# Scores


def word_errors(model: str | Path, folder: Path, language: str, test_clips: int | None) -> np.ndarray:
    """(N, 2) errors and reference words of each test utterance, normalised; in the same order for every model."""
    from myna.data.catalog import Catalog
    from myna.feed.evaluation import EvaluationBatches
    from myna.metrics import score
    from myna.models.build import load_recognizer
    from myna.models.recognizer import DecodeOptions

    recognizer = load_recognizer(model)
    with Catalog(folder / "catalog.db") as catalog:
        utterances = list(catalog.utterances(catalog.version("").version_id, "test"))[:test_clips]
    heard: dict[str, str] = {}
    for batch in EvaluationBatches(utterances, recognizer.processor, batch_seconds=240.0).in_order(0):
        transcripts = recognizer.decode(batch, DecodeOptions(language=language))
        texts = (transcript.text for transcript in transcripts)
        heard |= zip(batch.utterance_ids, texts, strict=True)
    rows = []
    for utterance in utterances:
        words = score(utterance.transcript, heard[utterance.utterance_id], language).normalized_words
        rows.append((words.errors, words.reference_length))
    return np.array(rows)


def rate(rows: np.ndarray) -> float:
    return float(rows[..., 0].sum() / rows[..., 1].sum())


def interval_of_difference(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """95 % of the differences in WER, percent points, when the same utterances are drawn for both."""
    from myna.intervals import compare

    found = compare(theirs[:, 0], ours[:, 0], ours[:, 1], [""] * len(ours)).interval
    return [round(100 * edge, 2) for edge in (found.low, found.high)]


def figures_of(turns: Sequence[tuple[int, float]], before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    rates = [clips / seconds for clips, seconds in turns]
    return {
        "clips": sum(clips for clips, _ in turns),
        "training_seconds": round(sum(seconds for _, seconds in turns), 1),
        "clips_per_second": round(statistics.median(rates), 2),
        "clips_per_second_of_turns": [round(rate, 2) for rate in rates],
        "wer_percent": round(100 * rate(after), 2),
        "against_start": interval_of_difference(after, before),
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of our configuration")
    parser.add_argument("--updates", type=int, default=140)
    parser.add_argument("--batch", type=int, default=16, help="clips of an update")
    parser.add_argument("--turn", type=int, default=10, help="updates of a turn")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--model", default=str(SHARED / "models" / "whisper-tiny"))
    parser.add_argument("--corpus", default="common_voice_en")
    parser.add_argument("--language", default="en")
    parser.add_argument("--test-clips", type=int, help="to score; all by default")
    parser.add_argument("--cpu", action="store_true", help="keep the plain recipe from using an accelerator")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, help=argparse.SUPPRESS)
    return parser.parse_intermixed_args()


def compared(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    from myna.data.prepare import PrepareSettings, prepare

    report = prepare(
        [SHARED / "corpora" / arguments.corpus], folder / "catalog.db", PrepareSettings(language=arguments.language)
    )
    yield from {"corpus": arguments.corpus, "splits": report.splits}.items()
    yield from {key: getattr(arguments, key) for key in ("updates", "batch", "learning_rate", "overrides")}.items()
    turns = take_turns(folder, arguments.updates, arguments.turn)
    counted = {name: turns[name][1:] or turns[name] for name in SIDES}
    models = {"start": arguments.model, "plain": folder / "plain", "ours": folder / "ours"}
    scored = folder, arguments.language, arguments.test_clips
    errors = {name: word_errors(model, *scored) for name, model in models.items()}
    yield "wer_percent_of_start", round(100 * rate(errors["start"]), 2)
    for name in SIDES:
        yield name, figures_of(counted[name], errors["start"], errors[name])
    ratios = [
        (mine[0] / mine[1]) / (theirs[0] / theirs[1])
        for mine, theirs in zip(counted["ours"], counted["plain"], strict=True)
    ]
    yield "times_faster", round(statistics.median(ratios), 2)
    yield "ours_minus_plain_wer_points", interval_of_difference(errors["ours"], errors["plain"])


def main() -> None:
    """Measure and print; or be one of the sides."""
    arguments = parsed()
    if arguments.side:
        report_to(arguments.events, arguments.batch if arguments.side == "plain" else None)
        (train_plainly if arguments.side == "plain" else train_ours)(arguments, arguments.folder)
        return
    with TemporaryDirectory() as name:
        print(json.dumps({"bench": "plain_recipe"} | dict(compared(arguments, Path(name)))))


if __name__ == "__main__":
    main()
