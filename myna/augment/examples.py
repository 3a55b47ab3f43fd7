"""`write_examples`: what each transform does to a recording, as sound, picture, numbers and a page that shows them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import soundfile

from myna.audio.augment.chain import AnyTransform, Chain, rng_for
from myna.audio.augment.recordings import read_start
from myna.audio.augment.transform import AudioTransform, FeatureTransform, Parameters, Transform
from myna.audio.features import LogMel
from myna.augment.page import GENERATOR, Panel, Section, render_page
from myna.augment.picture import COLUMNS_PER_SECOND, RANGE_DB, as_png, spectrogram_db
from myna.errors import ConfigError, MissingExtraError
from myna.files import staged_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from myna.samples import AudioClip

MAX_SECONDS = 30.0  # of the recording; what comes later is left out
FEATURE_RANGE = 3.0  # standard deviations either way that colours tell apart


@dataclass(frozen=True, slots=True)
class Example:
    """One transform's outcome; files are named relative to the folder."""

    type: str
    parameters: Parameters
    sound: str  # "" for a transform of features
    picture: str


@dataclass(frozen=True, slots=True)
class ExamplesReport:
    """What was written."""

    page: str
    seconds: float  # of the recording that was used
    examples: tuple[Example, ...]
    notes: tuple[str, ...]  # what was left out, and why

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """For the terminal."""
        lines = [f"{example.type:17s} {_numbers(example.parameters)}" for example in self.examples]
        return "\n".join([*lines, *self.notes, f"Listen and look: {self.page}"])


def write_examples(
    file: str | Path, out: str | Path, chain: Chain | None = None, seed: int = 0, sample_rate_hz: int = 16_000
) -> ExamplesReport:
    """Apply each transform alone to a recording, whatever its probability, and write before and after into a folder.

    Args:
        file: a recording; its first 30 seconds are used.
        out: the folder; one that an earlier call wrote is replaced.
        chain: the transforms; None or empty takes all that need no folder, with default settings.
        seed: of the draws.
        sample_rate_hz: of the clips.

    Raises:
        AudioError: the recording cannot be decoded.
        ConfigError: a transform's folder cannot be used, or `out` holds other things.
        MissingExtraError: a package is missing.
    """
    out = Path(out).absolute()
    _must_be_ours(out)
    notes: list[str] = []
    if chain is None or not chain.transforms:
        chain = Chain(_default_transforms(notes))
    notes += chain.check()
    clip = read_start(Path(file), MAX_SECONDS, sample_rate_hz)
    examples = []
    with staged_folder(out) as folder:
        writer = _Writer(folder, clip)
        for number, transform in enumerate(chain.transforms, start=1):
            parameters = transform.draw(rng_for(seed, 0, f"{number}/{Path(file).name}"))
            examples.append(writer.write(f"{number:02d}_{_type(transform)}", transform, parameters))
        heading = f"{Path(file).name}: {clip.duration_seconds:.2f} s at {sample_rate_hz / 1000:g} kHz, seed {seed}"
        (folder / "index.html").write_text(render_page(heading, writer.sections, notes), encoding="utf-8")
    return ExamplesReport(str(out / "index.html"), clip.duration_seconds, tuple(examples), tuple(notes))


class _Writer:
    """Writes one example after the other into a folder, and keeps what the page says of them."""

    def __init__(self, folder: Path, clip: AudioClip) -> None:
        self.sections: list[Section] = []
        self._folder = folder
        self._clip = clip
        self._gain_notes = {"before": self._write_sound("before.flac", clip)}

    def write(self, name: str, transform: Transform, parameters: Parameters) -> Example:
        if isinstance(transform, AudioTransform):
            panels = self._write_audio(name, transform, parameters)
        else:
            assert isinstance(transform, FeatureTransform)
            panels = self._write_features(name, transform, parameters)
        described = {"type": _type(transform), "parameters": parameters, "settings": transform.model_dump(mode="json")}
        (self._folder / f"{name}.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        summary = (type(transform).__doc__ or "").strip().replace("`", "")
        self.sections.append(Section(_type(transform), summary, _numbers(parameters), f"{name}.json", panels))
        return Example(_type(transform), parameters, panels[1].sound, panels[1].picture)

    def _write_audio(self, name: str, transform: AudioTransform, parameters: Parameters) -> tuple[Panel, Panel]:
        changed = transform.apply(self._clip, parameters)
        note = self._write_sound(f"{name}.flac", changed)
        levels = [spectrogram_db(clip) for clip in (self._clip, changed)]
        highest = float(levels[0].max())
        pictures = self._write_pictures(name, levels, highest - RANGE_DB, highest)
        khz = self._clip.sample_rate_hz / 2000
        ticks = tuple((f"{part * khz:g}", part) for part in (0, 0.25, 0.5, 0.75, 1))
        seconds = self._seconds(levels)
        return (
            Panel("before", "before.flac", self._gain_notes["before"], pictures[0], "kHz", ticks, seconds),
            Panel("after", f"{name}.flac", note, pictures[1], "kHz", ticks, seconds),
        )

    def _write_features(self, name: str, transform: FeatureTransform, parameters: Parameters) -> tuple[Panel, Panel]:
        rate = self._clip.sample_rate_hz
        features = LogMel(sample_rate_hz=rate, hop_length=rate // COLUMNS_PER_SECOND)(self._clip)  # (T, n_mels)
        images = [each.numpy().T[::-1] for each in (features, transform.apply(features, parameters))]
        pictures = self._write_pictures(name, images, -FEATURE_RANGE, FEATURE_RANGE)
        num_bins = features.shape[1]
        ticks = tuple((str(round(part * num_bins)), part) for part in (0, 0.25, 0.5, 0.75, 1))
        note = "changes features, not sound: there is nothing to hear"
        seconds = self._seconds(images)
        return (
            Panel("before", "", note, pictures[0], "mel bin", ticks, seconds),
            Panel("after", "", note, pictures[1], "mel bin", ticks, seconds),
        )

    def _seconds(self, images: Sequence[NDArray[np.float32]]) -> float:
        """What the time axis of both pictures spans."""
        return float(max(image.shape[1] for image in images)) / COLUMNS_PER_SECOND

    def _write_pictures(
        self, name: str, images: Sequence[NDArray[np.float32]], lowest: float, highest: float
    ) -> list[str]:
        num_columns = max(image.shape[1] for image in images)
        files = [f"{name}_before.png", f"{name}_after.png"]
        for file, image in zip(files, images, strict=True):
            (self._folder / file).write_bytes(as_png(image, lowest, highest, num_columns))
        return files

    def _write_sound(self, file: str, clip: AudioClip) -> str:
        """16-bit flac; what passes full scale is turned down as a whole, and that is said."""
        peak = float(np.abs(clip.samples).max(initial=0))
        gain = min(1.0, 0.999 / peak) if peak else 1.0
        soundfile.write(self._folder / file, clip.samples * np.float32(gain), clip.sample_rate_hz, subtype="PCM_16")
        return f"turned down by {-20 * np.log10(gain):.1f} dB to fit" if gain < 1 else ""


def _default_transforms(notes: list[str]) -> list[AudioTransform | FeatureTransform]:
    """All transforms that work without a folder, with default settings."""
    transforms = []
    for kind in get_args(get_args(AnyTransform)[0]):
        name = kind.model_fields["type"].default
        if any(field.is_required() for field in kind.model_fields.values()):
            notes.append(f"{name} is left out: it needs a folder, so give it in a configuration")
            continue
        transform = kind()
        try:
            transform.check()
        except MissingExtraError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        transforms.append(transform)
    return transforms


def _must_be_ours(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError([f"--out: expected a folder; received {out}, which is a file"])
    page = out / "index.html"
    if out.is_dir() and any(out.iterdir()) and not (page.is_file() and GENERATOR in page.read_text(errors="replace")):
        raise ConfigError([f"--out: expected a new folder, or one that this command wrote; {out} holds other things"])


def _type(transform: Transform) -> str:
    return str(transform.model_dump()["type"])


def _numbers(parameters: Parameters) -> str:
    """Parameters for people: rounded, on one line."""

    def short(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}"
        if isinstance(value, dict):
            return " ".join(f"{key} {short(each)}" for key, each in value.items())
        return ", ".join(map(short, value)) if isinstance(value, list) else str(value)

    return "; ".join(f"{key} = {short(value)}" for key, value in parameters.items())
