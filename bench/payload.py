"""Bytes of an utterance in the container against float32 log-mels padded to 30 s, on common_voice_en, augmented.

Prints one JSON line. Whisper's own 80 mels of 30 s are the usual recipe's cache; ours holds the same clips for a
Conformer and, its padding taken out, for Whisper-tiny.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from myna.audio.augment.chain import Chain
from myna.audio.augment.noise import Noise
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.speed import Speed
from myna.config import load_config
from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.feed.epoch import BatchBudget
from myna.feed.payload import from_bytes, to_bytes
from myna.feed.work import TrainingBatches
from myna.models.processors import build_processor

SHARED = Path(__file__).resolve().parents[2] / "shared"
USUAL_BYTES = 3000 * 80 * 4  # 30 s at 10 ms, float32


def main() -> None:
    """Measure and print."""
    if not SHARED.is_dir():
        sys.exit(f"{SHARED}: expected the corpora; there are none")
    with TemporaryDirectory() as folder:
        db = f"{folder}/catalog.db"
        prepare([str(SHARED / "corpora/common_voice_en")], db, PrepareSettings(), workers=2)
        with Catalog(db) as catalog:
            utterances = list(catalog.utterances(split="train"))
    found = {}
    for family in ("conformer", "whisper"):
        overrides = [] if family == "conformer" else [f"model.pretrained={SHARED / 'models/whisper-tiny'}"]
        config = load_config([], [f"model.family={family}", *overrides, "data.language=en"])
        processor = build_processor(config, [utterance.text for utterance in utterances])
        chain = Chain([Speed(), Noise(), SpecAugment()])
        work = TrainingBatches(utterances, processor, BatchBudget(160.0), augment=chain)
        sizes, packing, unpacking = 0, [], []
        for number in range(work.per_epoch):
            batch = work.make(number)
            begun = time.perf_counter()
            payload = to_bytes(batch)
            packed = time.perf_counter()
            from_bytes(payload)
            packing.append(packed - begun)
            unpacking.append(time.perf_counter() - packed)
            sizes += len(payload)
        each = sizes / len(utterances)
        found[family] = {
            "bytes_per_utterance": round(each),
            "times_smaller": round(USUAL_BYTES / each, 2),
            "pack_ms": round(1000 * statistics.median(packing), 2),
            "unpack_ms": round(1000 * statistics.median(unpacking), 2),
        }
    print(json.dumps({"bench": "payload", "utterances": len(utterances), "usual_bytes": USUAL_BYTES, **found}))


if __name__ == "__main__":
    main()
