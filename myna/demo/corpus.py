"""A small corpus of synthesised Vietnamese: clips, metadata.csv, and different speakers in every split.

The same seed gives the same bytes on any number of cores: everything random is drawn first, and each share of the
speakers is synthesised in order by a process of its own (`myna.demo.speech` says why).
"""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from myna.demo.sentences import make_sentences
from myna.demo.speech import Synthesizer
from myna.errors import DataError
from myna.files import staged_folder, write_atomically
from myna.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

RECIPE_NAME = "recipe.json"
METADATA_NAME = "metadata.csv"
COLUMNS = ("file_path", "transcript", "duration", "split", "speaker_id", "language")
LANGUAGE = "vi"
SAMPLE_RATE_HZ = 16_000
SHARES = 8  # processes the speakers are dealt out to; part of the recipe, since it decides the bytes
SPEEDS_WPM = (125, 180)  # lowest, highest; faster, and CTC runs short of frames at four to one
PITCHES = (35, 65)
NOISE_SNRS_DB = (8.0, 35.0)
NOISE_COLOURS = (0.0, 2.0)  # power falls with frequency^-colour: 0 is white, 1 pink, 2 brown

# Northern, central and southern accents; a variant is one speaker's throat.
VOICES = {
    "train": (
        *("vi+m1", "vi+m2", "vi+m3", "vi+m5", "vi+m8", "vi+f1", "vi+f3", "vi+f4", "vi+Nguyen", "vi+linda"),
        *("vi+Annie", "vi+adam", "vi+grandpa", "vi+miguel", "vi+klatt3", "vi+Michael", "vi+john", "vi+shelby"),
        *("vi-vn-x-central+m4", "vi-vn-x-central+Lee", "vi-vn-x-central+f5", "vi-vn-x-central+Alicia"),
        *("vi-vn-x-south+m6", "vi-vn-x-south+sandro", "vi-vn-x-south+grandma", "vi-vn-x-south+aunty"),
    ),
    "valid": ("vi+belinda", "vi+robert", "vi-vn-x-south+Alex"),
    "test": ("vi+f2", "vi+m7", "vi+Andy", "vi+steph", "vi-vn-x-central+max", "vi-vn-x-south+norbert"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the corpus, down to its bytes."""

    train_clips: int = 1_560
    valid_clips: int = 60
    test_clips: int = 120
    seed: int = 0
    format_version: int = 1  # raise it when the same recipe gives other clips

    def clips(self) -> dict[str, int]:
        """Clips a split."""
        return {"train": self.train_clips, "valid": self.valid_clips, "test": self.test_clips}


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Everything drawn for one clip before any of it is made."""

    file_path: str  # in the corpus folder
    transcript: str
    split: str
    voice: str
    speed_wpm: int
    pitch: int
    snr_db: float
    noise_colour: float
    noise_seed: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus on disk."""

    folder: Path
    clips: dict[str, int]  # by split
    hours: float
    speakers: int
    reused: bool


def write_corpus(
    folder: str | Path,
    recipe: Recipe | None = None,
    *,
    workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Corpus:
    """Synthesise the corpus of `recipe` into `folder`, which appears whole or not at all.

    A folder that already holds this recipe's corpus is used as it is; another recipe's is replaced.

    Args:
        folder: where to; its parent is created.
        workers: processes; 0 takes one a core.
        on_progress: called with the clips done and the clips planned.

    Raises:
        DataError: the folder holds something else than such a corpus, or the recipe asks for too much.
        MissingExtraError: espeakng-loader is not installed.
    """
    folder, recipe = Path(folder), recipe or Recipe()
    if _recipe_in(folder) == asdict(recipe) and _is_whole(folder):
        return _read_corpus(folder, reused=True)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not _recipe_in(folder):
        raise DataError(f"expected a new folder or a demo corpus; {folder} holds something else", "Choose another.")
    Synthesizer()  # a missing extra is told here, not by a worker
    plans = plan_clips(recipe)
    with staged_folder(folder) as staging:
        durations = _make_all(staging, plans, workers or math.ceil(usable_cores()), on_progress)
        write_atomically(staging / METADATA_NAME, _metadata(plans, durations))
        write_atomically(staging / RECIPE_NAME, json.dumps(asdict(recipe), indent=1) + "\n")
    return _read_corpus(folder, reused=False)


def plan_clips(recipe: Recipe) -> list[ClipPlan]:
    """Draw sentences, voices and noise for every clip. No sentence occurs twice, so test sentences are new."""
    rng = np.random.default_rng(recipe.seed)
    sentences = iter(make_sentences(sum(recipe.clips().values()), rng))
    plans: list[ClipPlan] = []
    for split, count in recipe.clips().items():
        for index in range(count):
            voice = VOICES[split][index % len(VOICES[split])]
            plans.append(
                ClipPlan(
                    file_path=f"clips/{split}-{index:05d}.flac",
                    transcript=next(sentences),
                    split=split,
                    voice=voice,
                    speed_wpm=int(rng.integers(*SPEEDS_WPM, endpoint=True)),
                    pitch=int(rng.integers(*PITCHES, endpoint=True)),
                    snr_db=round(float(rng.uniform(*NOISE_SNRS_DB)), 1),
                    noise_colour=round(float(rng.uniform(*NOISE_COLOURS)), 2),
                    noise_seed=int(rng.integers(2**31)),
                )
            )
    return plans


def add_noise(
    samples: NDArray[np.float32], snr_db: float, colour: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add Gaussian noise whose power falls with frequency^-colour, at `snr_db` below the clip's mean power."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    bins = np.maximum(np.arange(len(spectrum)), 1)
    noise = np.fft.irfft(spectrum * bins ** (-colour / 2), len(samples))
    speech_power = float(np.mean(np.square(samples, dtype=np.float64)))
    noise_power = float(np.mean(np.square(noise)))
    gain = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    noisy: NDArray[np.float32] = (samples + gain * noise).astype(np.float32)
    return noisy


def _make_all(
    folder: Path, plans: Sequence[ClipPlan], workers: int, on_progress: Callable[[int, int], None]
) -> dict[str, float]:
    """Make every clip; durations in seconds by file path."""
    (folder / "clips").mkdir()
    voices = sorted({plan.voice for plan in plans})
    durations: dict[str, float] = {}
    # Spawned, and one share a process: the engine must start from the same state for every share.
    with ProcessPoolExecutor(
        min(workers, SHARES), mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        jobs = []
        for share in range(SHARES):
            chosen = frozenset(voices[share::SHARES])
            jobs.append(pool.submit(_make_share, folder, [plan for plan in plans if plan.voice in chosen]))
        for job in as_completed(jobs):
            durations |= job.result()
            on_progress(len(durations), len(plans))
    return durations


def _make_share(folder: Path, plans: Sequence[ClipPlan]) -> dict[str, float]:
    synthesizer = Synthesizer()
    durations = {}
    for plan in plans:
        clip = synthesizer.speak(plan.transcript, plan.voice, speed_wpm=plan.speed_wpm, pitch=plan.pitch)
        samples = soxr.resample(clip.samples, clip.sample_rate_hz, SAMPLE_RATE_HZ)
        samples = add_noise(samples, plan.snr_db, plan.noise_colour, np.random.default_rng(plan.noise_seed))
        samples *= 0.7 / np.abs(samples).max()  # noise must not push the loud voices over full scale
        soundfile.write(folder / plan.file_path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        durations[plan.file_path] = len(samples) / SAMPLE_RATE_HZ
    return durations


def _metadata(plans: Sequence[ClipPlan], durations: dict[str, float]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for plan in plans:
        duration = f"{durations[plan.file_path]:.4f}"
        writer.writerow((plan.file_path, plan.transcript, duration, plan.split, plan.voice, LANGUAGE))
    return table.getvalue()


def _recipe_in(folder: Path) -> dict[str, int]:
    """The recipe that a corpus folder was made by; empty when it is none."""
    try:
        recipe = json.loads((folder / RECIPE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METADATA_NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _is_whole(folder: Path) -> bool:
    """Nothing was taken out of the corpus since it was made."""
    return (folder / METADATA_NAME).is_file() and all((folder / row["file_path"]).is_file() for row in _rows(folder))


def _read_corpus(folder: Path, *, reused: bool) -> Corpus:
    rows = _rows(folder)
    hours = sum(float(row["duration"]) for row in rows) / 3_600
    clips = dict(Counter(row["split"] for row in rows))
    return Corpus(folder, clips, hours, len({row["speaker_id"] for row in rows}), reused)
