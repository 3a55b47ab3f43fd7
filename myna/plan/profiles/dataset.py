"""What a plan must know of a dataset: how many utterances, how long they are, how much is said in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import beta

from myna.audio.addresses import size_and_change
from myna.audio.decode import probe
from myna.data.catalog import Catalog
from myna.data.sources.hub import HUB_PREFIX, is_dataset_folder, load_splits
from myna.data.sources.read import read_source
from myna.data.sources.rows import split_named
from myna.errors import AudioError, DataError
from myna.plan.profiles.huggingface import DEFAULT_SAMPLE_RATE_HZ, evenly, measure, usual
from myna.samples import Recording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

SUMMARY_SHAPE = 2.0  # of the beta distribution near 0: few clips are very short
NUM_QUANTILES = 512
MAX_HOURS = 1e9  # a thousand times what was ever collected
MAX_PROBES = 5_000  # files whose headers are read; mp3 takes 0.8 ms each


@dataclass(frozen=True, slots=True)
class DatasetProfile:
    """Figures of a dataset. Of a sampled one, totals are scaled up and the longest utterance may be longer."""

    utterances: int
    total_hours: float
    mean_seconds: float
    min_seconds: float
    max_seconds: float
    p95_seconds: float
    quantile_seconds: tuple[float, ...]  # rising, evenly spaced in rank, the extremes included; at most 512
    size_bytes: int  # of the audio as it is stored; 0 when unknown
    labels_per_second: float | None = None  # characters of transcript, spaces included; None without transcripts
    sample_rate: int = DEFAULT_SAMPLE_RATE_HZ  # Hz, of the audio as it is stored
    measured: int = 0  # utterances whose length is known; the others are taken to be like them
    unreadable: int = 0  # utterances looked at that have none

    @classmethod
    def from_durations(
        cls,
        seconds: ArrayLike,
        *,
        utterances: int | None = None,
        size_bytes: int = 0,
        labels_per_second: float | None = None,
        sample_rate: int = DEFAULT_SAMPLE_RATE_HZ,
        unreadable: int = 0,
    ) -> DatasetProfile:
        """A profile of utterances of these lengths.

        Args:
            seconds: (n,) durations, of all utterances or of an even sample.
            utterances: how many there are when `seconds` is a sample of them.
            size_bytes: of all of them as stored.
            labels_per_second: characters of transcript.
            sample_rate: Hz.
            unreadable: of the sample, how many had no duration.

        Raises:
            DataError: there are none, or some are not positive numbers.
        """
        durations: NDArray[np.float64] = np.sort(np.asarray(seconds, dtype=np.float64).ravel())
        if not len(durations):
            raise DataError("expected utterances to profile; received none whose length can be found")
        if not (np.isfinite(durations).all() and durations[0] > 0):
            raise DataError(f"expected durations over 0 seconds; received {durations[0]} to {durations[-1]}")
        ranks = np.linspace(0, 1, min(len(durations), NUM_QUANTILES))
        total = len(durations) if utterances is None else utterances
        return cls(
            utterances=total,
            total_hours=float(durations.mean()) * total / 3600,
            mean_seconds=float(durations.mean()),
            min_seconds=float(durations[0]),
            max_seconds=float(durations[-1]),
            p95_seconds=float(np.quantile(durations, 0.95)),
            quantile_seconds=tuple(np.quantile(durations, ranks).round(4).tolist()),
            size_bytes=size_bytes,
            labels_per_second=labels_per_second,
            sample_rate=sample_rate,
            measured=len(durations),
            unreadable=unreadable,
        )

    @classmethod
    def from_summary(
        cls, hours: float, mean_seconds: float, longest_seconds: float, labels_per_second: float | None = None
    ) -> DatasetProfile:
        """A dataset of which only these figures are known; lengths are taken to follow a beta distribution.

        Raises:
            DataError: figures that no dataset has.
        """
        if not (0 < mean_seconds < longest_seconds <= hours * 3600 and hours <= MAX_HOURS):
            raise DataError(
                f"expected 0 < mean seconds < longest seconds <= hours x 3600, and at most {MAX_HOURS:,.0f} hours; "
                f"received mean {mean_seconds:g} s, longest {longest_seconds:g} s, {hours:g} hours"
            )
        shape = SUMMARY_SHAPE * (longest_seconds / mean_seconds - 1)  # its mean is mean_seconds / longest_seconds
        quantiles = beta.ppf((np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES, SUMMARY_SHAPE, shape)
        quantiles[-1] = 1.0
        return cls.from_durations(
            np.maximum(quantiles * longest_seconds, 1e-2),
            utterances=max(1, round(hours * 3600 / mean_seconds)),
            labels_per_second=labels_per_second,
        )

    @classmethod
    def from_catalog(cls, db: str | Path, version: str = "", split: str = "train") -> DatasetProfile:
        """A split of a dataset version, every utterance of it.

        Args:
            db: the catalog's file.
            version: the ID or its beginning, "" for the newest.
            split: train, valid or test.

        Raises:
            DataError: no such catalog, version or split, or nothing in it.
        """
        with Catalog(db) as catalog:
            version_id = catalog.version(version).version_id
            statistics = catalog.statistics(version_id).get(split)
            seconds = [utterance.duration_seconds for utterance in catalog.utterances(version_id, split)]
        if statistics is None:
            raise DataError(f"{db}, version {version_id}: expected utterances in the split {split!r}; received none")
        spaces = statistics.words - statistics.utterances
        return cls.from_durations(
            seconds,
            size_bytes=statistics.bytes,
            labels_per_second=(statistics.characters + spaces) / sum(seconds),
        )

    @classmethod
    def from_manifest(
        cls,
        spec: str | Path,
        columns: Mapping[str, str] | None = None,
        *,
        split: str = "",
        max_probes: int = MAX_PROBES,
    ) -> DatasetProfile:
        """Any source that `myna prepare` reads. Lengths that it does not state are read from the files' headers.

        Args:
            spec: folder, manifest or `hf:org/name[:config]`.
            columns: role -> column name, where the usual names do not do.
            split: only its rows, and those without one; "" is all.
            max_probes: the most files to look into; of more, an even sample is taken.

        Raises:
            SourceError: the source cannot be understood.
            DataError: no length can be found.
        """
        if str(spec).startswith(HUB_PREFIX) or is_dataset_folder(Path(spec)):
            return cls.from_huggingface(_load_split(str(spec), split), max_probes=max_probes)
        rows = [
            row
            for row in read_source(spec, columns)
            if isinstance(row, Recording) and (not split or row.split in ("", split))
        ]
        sample = [rows[index] for index in evenly(len(rows), max_probes)]
        heard = [_look_at(row) for row in sample]
        stated = [row.duration_seconds for row in rows if row.duration_seconds]
        found = [clip for clip in heard if clip.seconds]
        size_of = {row.audio_path: clip.size_bytes for row, clip in zip(sample, heard, strict=True) if clip.size_bytes}
        files = len({row.audio_path for row in rows})  # segments share them
        return cls.from_durations(
            stated if len(stated) == len(rows) else [clip.seconds for clip in found],
            utterances=len(rows),
            size_bytes=int(np.mean(list(size_of.values())) * files) if size_of else 0,
            labels_per_second=_rate(found),
            sample_rate=usual([clip.sample_rate_hz for clip in heard]),
            unreadable=sum(not clip.size_bytes for clip in heard),
        )

    @classmethod
    def from_huggingface(cls, dataset: Any, *, max_probes: int = MAX_PROBES) -> DatasetProfile:
        """A plain `datasets.Dataset`, or a `DatasetDict`'s train split.

        Lengths come from a duration column, an Audio column (headers only, nothing is decoded), `input_values`, or
        {"array", "sampling_rate"} dictionaries, whichever there is.

        Args:
            dataset: with any of these columns.
            max_probes: the most recordings to look into; of more, an even sample is taken.

        Raises:
            DataError: no such column, or no length can be found in it.
        """
        if isinstance(dataset, dict):
            dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
        measured = measure(dataset, max_probes)
        return cls.from_durations(
            measured.seconds,
            utterances=len(dataset),
            size_bytes=measured.size_bytes,
            labels_per_second=measured.labels_per_second,
            sample_rate=measured.sample_rate_hz,
            unreadable=measured.unreadable,
        )

    @property
    def durations_seconds(self) -> NDArray[np.float64]:
        """The quantiles as an array: each stands for the same number of utterances."""
        return np.asarray(self.quantile_seconds)

    @property
    def is_sampled(self) -> bool:
        """Whether utterances were left out of the measurement, so that a longer one may exist."""
        return self.measured < self.utterances

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _Heard(NamedTuple):
    """One row, looked at."""

    seconds: float  # 0: not found
    characters: int
    size_bytes: int  # 0: the file cannot be read
    sample_rate_hz: int


def _look_at(row: Recording) -> _Heard:
    """What the row and the headers of its file say."""
    seconds, characters = row.duration_seconds or 0.0, len(row.transcript)
    try:
        info, (size_bytes, _) = probe(row.audio_path), size_and_change(row.audio_path)
    except (AudioError, OSError):
        return _Heard(seconds, characters, 0, 0)
    if not seconds and info.duration_seconds:
        seconds = max(0.0, info.duration_seconds - (row.offset_seconds or 0.0))
    return _Heard(seconds, characters, size_bytes, info.sample_rate_hz)


def _rate(heard: list[_Heard]) -> float | None:
    """Characters a second; None where nothing is said."""
    characters = sum(clip.characters for clip in heard)
    return characters / sum(clip.seconds for clip in heard) if characters else None


def _load_split(spec: str, split: str) -> Any:
    """A split by its name; the training split, or the only one, for ""."""
    splits = load_splits(spec)
    named = {split_named(name): dataset for name, dataset in splits.items()}
    if not split and len(splits) == 1:
        return next(iter(splits.values()))
    if (split or "train") not in named:
        raise DataError(f"{spec}: expected a split {split or 'train'!r}; received {', '.join(splits)}")
    return named[split or "train"]
