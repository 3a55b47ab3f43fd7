"""What a trainer tells producers, so that they make the very batches it expects."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from myna.errors import FeedError

FORMAT = "1"
# Their results may differ from one version to the next, and batches are promised to be the same bit for bit.
LIBRARIES = ("myna", "torch", "numpy", "scipy", "soxr", "soundfile", "av", "tokenizers")


def library_versions() -> dict[str, str]:
    """Versions of what the bytes of a batch depend on, without build tags such as +cpu, and the kind of processor."""
    return {name: version(name).partition("+")[0] for name in LIBRARIES} | {"processor": platform.machine()}


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """Everything that `TrainingBatches` is made from, but for the recordings themselves."""

    dataset_version: str
    audio: str  # "original" recordings, or how shards have changed them
    splits: tuple[str, ...]  # trained on, in this order
    max_duration_seconds: float  # longer utterances are left out
    step_seconds: float
    num_buckets: int
    seed: int
    parts: int  # micro-batches of a step, all ranks together
    world_size: int
    steps_per_epoch: int
    total: int  # numbers of the whole run
    by_shard: bool  # the epoch plan keeps near-by reads together
    language: str  # of Whisper's prompts
    augment: list[dict[str, Any]]  # the transforms' settings
    processor_files: dict[str, bytes]  # by name: front end and tokenizer
    fingerprint: str  # of `TrainingBatches`
    audio_context: tuple[float, ...] | None = None  # Whisper's, where it is short
    versions: dict[str, str] = field(default_factory=library_versions)

    @property
    def spec_id(self) -> str:
        """A hash of all of it: batches made under one ID may be used under no other."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """As JSON."""
        fields = asdict(self)
        files = {name: base64.b64encode(content).decode() for name, content in self.processor_files.items()}
        return json.dumps({"format": FORMAT, **fields, "processor_files": files}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> FeedSpec:
        """What `to_bytes` gave.

        Raises:
            FeedError: it is of another Myna.
        """
        try:
            fields = json.loads(content)
            if fields.pop("format") != FORMAT:
                raise ValueError("another format")
            files = {name: base64.b64decode(text, validate=True) for name, text in fields["processor_files"].items()}
            if any("/" in name or "\\" in name or name.startswith(".") for name in files):
                raise ValueError("file names with folders")
            context = None if fields["audio_context"] is None else tuple(fields["audio_context"])
            splits = tuple(fields["splits"])
            return cls(**{**fields, "processor_files": files, "splits": splits, "audio_context": context})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FeedError(
                f"expected a run's description of format {FORMAT}; received something else: {error}",
                "See that trainer and producers run the same version of Myna.",
            ) from error

    def check_versions(self) -> None:
        """See that this host's libraries are those of the trainer.

        Raises:
            FeedError: one is not, so that its batches could differ in their last bits.
        """
        here = library_versions()
        wrong = [
            f"{name} {self.versions.get(name)} (here {found})"
            for name, found in here.items()
            if found != self.versions.get(name)
        ]
        if wrong:
            raise FeedError(
                f"expected the trainer's libraries: {', '.join(wrong)}",
                "Install those versions here, so that batches are the same wherever they are made.",
            )
