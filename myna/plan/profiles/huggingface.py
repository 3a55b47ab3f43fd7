"""Lengths of a plain `datasets.Dataset`, from what its columns say; nothing is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from myna.audio.decode import probe
from myna.data.sources.rows import ALIASES
from myna.errors import AudioError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROWS_AT_ONCE = 64  # embedded audio is large
ARRAY_COLUMNS = ("input_values",)  # waveforms as transformers' feature extractors give them
LABEL_COLUMNS = (*ALIASES["transcript"], "labels")
DEFAULT_SAMPLE_RATE_HZ = 16_000  # what the models hear; arrays alone do not say


class Measured(NamedTuple):
    """What an even sample of rows gives."""

    seconds: NDArray[np.float64]  # (n,)
    labels_per_second: float | None
    size_bytes: int  # of all rows
    sample_rate_hz: int
    unreadable: int  # rows of the sample without a length


class _Clip(NamedTuple):
    seconds: float  # 0: not found
    size_bytes: int
    sample_rate_hz: int


def measure(dataset: Any, max_rows: int) -> Measured:
    """Lengths of an even sample of at most `max_rows` rows; of all, where a column states them.

    Raises:
        DataError: it is no `datasets.Dataset`, or no column says how long its audio is.
    """
    if not (hasattr(dataset, "select_columns") and hasattr(dataset, "__len__")):
        raise DataError(
            f"expected a datasets.Dataset; received a {type(dataset).__name__}",
            "Of a streaming dataset, profile some durations: DatasetProfile.from_durations(seconds, utterances=...).",
        )
    duration, audio, labels = _columns(dataset)
    sample = evenly(len(dataset), max_rows)
    if duration:
        seconds = _column(dataset, duration, None).to_numpy(zero_copy_only=False).astype(np.float64)  # (rows,)
        seconds = np.nan_to_num(seconds)
        clips = [_Clip(float(length), 0, 0) for length in seconds[sample]]
        size_bytes = 0
    else:
        clips = list(_clips(dataset, audio, sample))
        seconds = np.array([clip.seconds for clip in clips])
        size_bytes = _size(dataset, clips)
    heard = sum(clip.seconds for clip in clips)
    said = _label_count(dataset, labels, sample[[clip.seconds > 0 for clip in clips]]) if labels else 0
    return Measured(
        seconds=seconds[seconds > 0],
        labels_per_second=said / heard if said and heard else None,
        size_bytes=size_bytes,
        sample_rate_hz=usual([clip.sample_rate_hz for clip in clips]),
        unreadable=int((seconds <= 0).sum()),
    )


def evenly(count: int, at_most: int) -> NDArray[np.int64]:
    """Positions of an even sample, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(np.int64))


def usual(rates_hz: list[int]) -> int:
    """The commonest sample rate; 0 is unknown."""
    known = [rate for rate in rates_hz if rate]
    return max(set(known), key=known.count) if known else DEFAULT_SAMPLE_RATE_HZ


def _columns(dataset: Any) -> tuple[str, str, str]:
    """Names of the columns for duration, audio and labels; "" is none."""
    features = dataset.features
    duration = next((name for name in ALIASES["duration"] if name in features), "")
    recordings = [name for name, kind in features.items() if type(kind).__name__ == "Audio"]
    dictionaries = [name for name, kind in features.items() if isinstance(kind, dict) and "array" in kind]
    arrays = [name for name in ARRAY_COLUMNS if name in features]
    audio = next(iter([*recordings, *dictionaries, *arrays]), "")
    if not (duration or audio):
        raise DataError(
            f"expected a column with durations ({', '.join(ALIASES['duration'])}), an Audio column, dictionaries with "
            f"array and sampling_rate, or input_values; received the columns {', '.join(features)}",
            "Cast the audio's column: dataset.cast_column('path', datasets.Audio()).",
        )
    return duration, audio, next((name for name in LABEL_COLUMNS if name in features), "")


def _clips(dataset: Any, audio: str, sample: NDArray[np.int64]) -> Iterator[_Clip]:
    import pyarrow
    import pyarrow.compute as pc

    for start in range(0, len(sample), ROWS_AT_ONCE):
        values = _column(dataset, audio, sample[start : start + ROWS_AT_ONCE])
        if not pyarrow.types.is_struct(values.type):  # input_values
            yield from (_of_samples(count, None) for count in pc.list_value_length(values).to_pylist())
        elif values.type.get_field_index("array") >= 0:
            counts = pc.list_value_length(pc.struct_field(values, "array")).to_pylist()
            has_rate = values.type.get_field_index("sampling_rate") >= 0
            rates = pc.struct_field(values, "sampling_rate").to_pylist() if has_rate else [None] * len(counts)
            yield from (_of_samples(count, rate) for count, rate in zip(counts, rates, strict=True))
        else:
            yield from (_of_recording(value or {}) for value in values.to_pylist())


def _of_samples(count: int | None, rate_hz: int | None) -> _Clip:
    rate_hz = rate_hz or DEFAULT_SAMPLE_RATE_HZ
    return _Clip((count or 0) / rate_hz, 0, rate_hz)


def _of_recording(audio: dict[str, Any]) -> _Clip:
    """Of an Audio column's `{"bytes", "path"}`, by the headers."""
    content, path = audio.get("bytes"), audio.get("path")
    try:
        info = probe(content or path or "")
        size_bytes = len(content) if content else Path(str(path)).stat().st_size
    except (AudioError, OSError):
        return _Clip(0.0, 0, 0)
    return _Clip(info.duration_seconds or 0.0, size_bytes, info.sample_rate_hz)


def _size(dataset: Any, clips: list[_Clip]) -> int:
    sizes = [clip.size_bytes for clip in clips if clip.size_bytes]
    if sizes:
        return int(np.mean(sizes) * len(dataset))
    return int(dataset.data.nbytes * len(dataset) / max(1, dataset.data.num_rows))


def _label_count(dataset: Any, name: str, sample: NDArray[np.int64]) -> int:
    """Characters, or label ids, of these rows."""
    import pyarrow
    import pyarrow.compute as pc

    values = _column(dataset, name, sample)
    is_text = pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)
    lengths = pc.utf8_length(values) if is_text else pc.list_value_length(values)
    return int(pc.sum(lengths).as_py() or 0)


def _column(dataset: Any, name: str, rows: NDArray[np.int64] | None) -> Any:
    """A column as one Arrow array: no format, transform or decoder of the dataset touches it."""
    table = dataset.select_columns([name]).with_format("arrow")
    return (table[:] if rows is None else table[rows.tolist()])[name].combine_chunks()
