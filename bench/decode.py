"""Files per CPU second of `decode` against the bare libraries, on real mp3 and the same clips in the other formats.

Prints one JSON line. "bare" is soundfile or PyAV straight to an array, then soxr: no checks, no delay handling.
Run: python bench/decode.py [--clips 100] [--folder ../shared/corpora/common_voice_en]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "audio")]

from recordings import KINDS, chirp, encoded  # noqa: E402

from myna.audio.decode import decode  # noqa: E402

TARGET_RATE_HZ = 16_000


def bare_soundfile(data: bytes) -> np.ndarray:
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    return soxr.resample(samples, rate_hz, TARGET_RATE_HZ)


def bare_pyav(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
        return soxr.resample(samples.astype(np.float32), stream.codec_context.sample_rate, TARGET_RATE_HZ)


def files_per_cpu_second(read, files: list[bytes]) -> float:
    """The better of two rounds, since other work on the machine only ever slows one down."""
    rates = []
    for _ in range(2):
        start = time.process_time()
        for data in files:
            read(data)
        rates.append(len(files) / (time.process_time() - start))
    return round(max(rates), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "corpora" / "common_voice_en")
    arguments = parser.parse_args()
    real = [path.read_bytes() for path in sorted(arguments.folder.rglob("*.mp3"))[: arguments.clips]]
    clips = [decode(data).samples for data in real] or [chirp(5.0)] * arguments.clips
    sets = {"mp3 (common voice)": real} if real else {}
    sets |= {kind: [encoded(kind, samples, TARGET_RATE_HZ) for samples in clips] for kind in KINDS}
    figures = {}
    for name, files in sets.items():
        bare = bare_soundfile if name in ("wav", "flac", "ogg", "opus") else bare_pyav
        figures[name] = {
            "decode": files_per_cpu_second(decode, files),
            "bare": files_per_cpu_second(bare, files),
            "bare_library": bare.__name__.removeprefix("bare_"),
        }
        if name.startswith("mp3"):
            figures[name]["bare_soundfile"] = files_per_cpu_second(bare_soundfile, files)
    audio_seconds = sum(map(len, clips)) / TARGET_RATE_HZ
    print(
        json.dumps(
            {
                "benchmark": "decode",
                "unit": "files per CPU second",
                "clips": len(clips),
                "mean_clip_seconds": round(audio_seconds / len(clips), 2),
                "formats": figures,
            }
        )
    )


if __name__ == "__main__":
    main()
