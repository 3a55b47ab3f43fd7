"""Augmentation on one core: ms per clip of each transform, and clips a second of `make_batch` with all of them.

Where audiomentations is installed, each transform that it has a counterpart for runs against that on the same clips,
turn by turn, and so does the whole chain, decoding and features included on both sides. audiomentations asks for
soxr < 1, so it wants an environment of its own: pip install -e . pyroomacoustics audiomentations fast-mp3-augment

Prints one JSON line. Times are CPU time, all threads counted; ratios are medians over rounds, above 1 Myna is faster.
Run: python bench/augment.py [--clips 24] [--rounds 5]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402

from myna.audio.augment.chain import AnyTransform, Chain, rng_for  # noqa: E402
from myna.audio.augment.transform import AudioTransform  # noqa: E402
from myna.audio.decode import decode  # noqa: E402
from myna.audio.features import LogMel  # noqa: E402
from myna.feed.batches import make_batch  # noqa: E402
from myna.samples import AudioClip, Utterance  # noqa: E402

try:
    import audiomentations
except ImportError:
    audiomentations = None

CORPORA = ROOT.parent / "shared" / "corpora"
NOISE, ROOMS = str(CORPORA / "noise_and_rooms" / "noise"), str(CORPORA / "noise_and_rooms" / "rir")
RATE_HZ = 16_000
BATCH = 8
# Each with default settings but for what a counterpart cannot do. mp2 and the rest stand apart: nobody else has them.
COMPARABLE = [
    {"type": "pitch"},
    {"type": "stretch"},
    {"type": "far_field"},
    {"type": "impulse_response", "folder": ROOMS},
    {"type": "background", "folder": NOISE},
    {"type": "noise"},
    {"type": "resample"},
    {"type": "telephone"},
    {"type": "codec", "codecs": ["mp3"]},
    {"type": "shift"},
    {"type": "volume"},
]
OURS_ALONE = [{"type": "speed"}, {"type": "codec", "codecs": ["mp2"]}, {"type": "denoise"}, {"type": "edges"}]
OURS_ALONE += [{"type": "warp"}, {"type": "equalize"}, {"type": "spec_augment"}]


def counterparts() -> list[tuple[str, Any]]:
    """What of audiomentations does the same as each of `COMPARABLE`, in that order, over the same ranges."""
    a = audiomentations
    rooms = {f"{end}_size_{axis}": meters for axis in "xy" for end, meters in (("min", 3.0), ("max", 8.0))}
    return [
        ("PitchShift", a.PitchShift(-2, 2, p=1)),
        ("TimeStretch", a.TimeStretch(0.9, 1.1, leave_length_unchanged=False, p=1)),
        (
            "RoomSimulator",
            a.RoomSimulator(
                **rooms,
                min_size_z=2.4,
                max_size_z=3.5,
                calculation_mode="rt60",
                min_target_rt60=0.15,
                max_target_rt60=0.7,
                leave_length_unchanged=True,
                p=1,
            ),
        ),
        ("ApplyImpulseResponse", a.ApplyImpulseResponse(ROOMS, leave_length_unchanged=True, p=1)),
        ("AddBackgroundNoise", a.AddBackgroundNoise(NOISE, min_snr_db=5, max_snr_db=25, p=1)),
        ("AddColorNoise", a.AddColorNoise(min_snr_db=5, max_snr_db=30, p=1)),
        ("LowPassFilter", a.LowPassFilter(min_cutoff_freq=2_000, max_cutoff_freq=6_000, p=1)),
        (
            "BandPassFilter + BitCrush",
            a.Compose(
                [
                    a.BandPassFilter(1_850, 1_850, 1.67, 1.68, 24, 24, p=1),
                    a.BitCrush(min_bit_depth=8, max_bit_depth=8, p=1),
                ]
            ),
        ),
        ("Mp3Compression", a.Mp3Compression(16, 64, backend="fast-mp3-augment", preserve_delay=False, p=1)),
        ("Shift", a.Shift(-0.1, 0.1, shift_unit="seconds", rollover=False, p=1)),
        ("Gain", a.Gain(-12, 6, p=1)),
    ]


class TheirChain(Chain):
    """audiomentations where `make_batch` expects a chain."""

    __slots__ = ("compose",)

    def __init__(self, transforms: Sequence[Any]) -> None:
        super().__init__([])
        object.__setattr__(self, "compose", audiomentations.Compose(list(transforms)))

    def apply_audio(self, clip: AudioClip, draws: Any) -> AudioClip:
        return AudioClip(self.compose(clip.samples, clip.sample_rate_hz), clip.sample_rate_hz)


class Front:
    """The front end of the CTC presets; one label a character."""

    sample_rate_hz = RATE_HZ
    features = staticmethod(LogMel())

    def labels(self, utterance: Utterance) -> list[int]:
        return [ord(char) for char in utterance.text]

    def refusal(self, utterance: Utterance) -> None:
        return None


def chain_of(described: Sequence[dict[str, Any]]) -> Chain:
    return Chain(TypeAdapter(list[AnyTransform]).validate_python(described))


def seconds_over(apply: Callable[[AudioClip, int], object], clips: Sequence[AudioClip], seed: int) -> float:
    """CPU seconds for all clips."""
    start = time.process_time()
    for number, clip in enumerate(clips):
        apply(clip, seed * len(clips) + number)
    return time.process_time() - start


def ours(described: dict[str, Any], clips: Sequence[AudioClip]) -> Callable[[AudioClip, int], object]:
    """Draw and apply, to the clip or to features made beforehand."""
    chain = chain_of([described])
    if isinstance(chain.transforms[0], AudioTransform):
        return lambda clip, seed: chain.apply_audio(clip, chain.draw(rng_for(seed, 0, "")))
    features = {id(clip): LogMel()(clip) for clip in clips}
    return lambda clip, seed: chain.apply_features(features[id(clip)], chain.draw(rng_for(seed, 0, "")))


def compared(clips: Sequence[AudioClip], rounds: int) -> dict[str, Any]:
    """Milliseconds per clip of each transform, and of its counterpart."""
    theirs = counterparts() if audiomentations else [("", None)] * len(COMPARABLE)
    rows = [*zip(COMPARABLE, theirs, strict=True), *((described, ("", None)) for described in OURS_ALONE)]
    figures = {}
    for described, (name, counterpart) in rows:
        mine, other = [], []
        apply = ours(described, clips)
        run = (lambda clip, seed, c=counterpart: c(clip.samples, clip.sample_rate_hz)) if counterpart else None
        for number in range(-1, rounds):  # the first round warms up
            mine.append(1e3 * seconds_over(apply, clips, number + 1) / len(clips))
            if run:
                other.append(1e3 * seconds_over(run, clips, number + 1) / len(clips))
        row: dict[str, Any] = {"ms": round(statistics.median(mine[1:]), 3)}
        if run:
            row |= {"against": name, "their_ms": round(statistics.median(other[1:]), 3)}
            row["ratio"] = round(statistics.median(b / a for a, b in zip(mine[1:], other[1:], strict=True)), 2)
        figures["_".join([described["type"], *described.get("codecs", [])])] = row
    return figures


def clips_per_second(utterances: Sequence[Utterance], chain: Chain | None, epoch: int) -> float:
    start = time.process_time()
    for first in range(0, len(utterances), BATCH):
        make_batch(utterances[first : first + BATCH], Front(), augment=chain, epoch=epoch)
    return len(utterances) / (time.process_time() - start)


def batches(utterances: Sequence[Utterance], rounds: int) -> dict[str, Any]:
    """Clips a second per core of `make_batch`: plain, and with each of four chains on both sides."""
    figures: dict[str, Any] = {}
    rates = [clips_per_second(utterances, None, number) for number in range(rounds + 1)]
    figures["no augmentation"] = {"clips_per_second": round(statistics.median(rates[1:]), 1)}
    chains = {
        "all": ((), "mp3"),
        "all, mp2 against mp3": ((), "mp2"),
        "all but simulated rooms": (("far_field",), "mp3"),
        "all but simulated rooms and codecs": (("far_field", "codec"), ""),
    }
    for name, (left_out, codec) in chains.items():
        kept = [n for n, described in enumerate(COMPARABLE) if described["type"] not in left_out]
        described = [COMPARABLE[n] for n in kept]
        my_chain = chain_of([each | {"codecs": [codec]} if "codecs" in each else each for each in described])
        their_chain = TheirChain([counterparts()[n][1] for n in kept]) if audiomentations else None
        mine, other = [], []
        for number in range(rounds + 1):
            mine.append(clips_per_second(utterances, my_chain, number))
            if their_chain:
                other.append(clips_per_second(utterances, their_chain, number))
        row: dict[str, Any] = {"clips_per_second": round(statistics.median(mine[1:]), 1)}
        if their_chain:
            row["their_clips_per_second"] = round(statistics.median(other[1:]), 1)
            row["ratio"] = round(statistics.median(a / b for a, b in zip(mine[1:], other[1:], strict=True)), 2)
        figures[name] = row
    return figures


def utterances_of(folder: Path, count: int) -> list[Utterance]:
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    return [
        Utterance(
            row["file_path"],
            str(folder / row["file_path"]),
            row["transcript"],
            row["transcript"].lower(),
            seconds,
            "train",
        )
        for row in rows
        for seconds in [decode(folder / row["file_path"]).duration_seconds]
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not CORPORA.is_dir():
        sys.exit(f"{CORPORA}: expected the corpora; there are none")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    utterances = utterances_of(CORPORA / "common_voice_en", arguments.clips)
    clips = [decode(utterance.audio_path, sample_rate_hz=RATE_HZ) for utterance in utterances]
    audio = np.concatenate([clip.samples for clip in clips])
    eights = [AudioClip(piece, RATE_HZ) for piece in np.split(audio, range(8 * RATE_HZ, len(audio), 8 * RATE_HZ))[:-1]]
    figures = {
        "bench": "augment",
        "audiomentations": audiomentations.__version__ if audiomentations else "not installed: nothing to compare with",
        "clips": len(clips),
        "mean_clip_seconds": round(len(audio) / RATE_HZ / len(clips), 2),
        "transforms_ms_per_8s_clip": compared(eights, arguments.rounds),
        "make_batch": batches(utterances, arguments.rounds),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
