"""`prepare`: sources in, a dataset version out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from myna.data.catalog import Catalog
from myna.data.checks import ClipLimits, Finding, check_clip, check_transcript
from myna.data.clips import ClipRequest, Probe, examine, failed, judged_under
from myna.data.sources.read import read_source
from myna.data.splits import SplitRow, plan_splits
from myna.data.staging import StagedRow, Staging
from myna.data.workers import map_in_processes
from myna.errors import DataError
from myna.machine import usable_cores
from myna.samples import RefusalReason, Utterance
from myna.text import normalize

# Given the train split's texts, a judge of single utterances for the chosen model.
Feasibility = Callable[[Sequence[str]], Callable[[Utterance], Finding | None]]
# (stage, done, total); total is 0 while it is unknown. Stages: read, decode, check, store.
Progress = Callable[[str, int, int], None]

REMEMBER_EVERY = 200  # clips; a run that is killed loses at most so many decodings


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """How sources are read, judged and split."""

    columns: Mapping[str, str] = field(default_factory=dict)  # role -> column name, where the usual names do not do
    language: str = ""  # ISO 639 code for rows that name none
    transcripts: Literal["required", "optional"] = "required"  # optional: rows without one come in, for pre-training
    min_duration_seconds: float = 0.5
    max_duration_seconds: float = 30.0
    max_clipped_share: float = 0.05  # samples at full scale, [0, 1]
    min_peak_dbfs: float = -60.0
    valid_ratio: float = 0.1  # of the hours, where the source names no splits
    test_ratio: float = 0.1
    split_seed: int = 0

    @property
    def limits(self) -> ClipLimits:
        """What a usable clip keeps to."""
        return ClipLimits(
            self.min_duration_seconds, self.max_duration_seconds, self.max_clipped_share, self.min_peak_dbfs
        )


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What came of a run of `prepare`."""

    version: str  # dataset version ID
    is_new: bool  # False: the same content was prepared before
    splits: dict[str, int]  # utterances by split
    refusals: dict[str, int]  # by RefusalReason, most frequent first
    decoded: int  # clips decoded in this run
    cached: int  # clips known from an earlier one
    notes: tuple[str, ...]  # what was decided about splits, and how many recordings have no transcript


def prepare(
    sources: Sequence[str | Path],
    db: str | Path,
    settings: PrepareSettings | None = None,
    *,
    feasibility: Feasibility | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Read, check, split and store recordings as an immutable dataset version.

    What was decoded is remembered as it goes, so a run that was stopped goes on where it was, and a later run decodes
    only what is new or has changed.

    Args:
        sources: folders, manifests or `hf:org/name[:config]`; all of them together are one dataset.
        db: the catalog file; made when there is none.
        settings: limits, columns and split shares.
        feasibility: called with the train split's texts; the result says of an utterance what keeps the model from
            learning it, or None.
        workers: processes that decode; None is one per core, 0 decodes in this process.
        progress: called now and then with (stage, done, total).

    Raises:
        SourceError: when a source as a whole cannot be understood.
        MissingExtraError: when a Hugging Face dataset is asked for and the package is not installed.
        DataError: when no recording is usable, or the catalog cannot be written.
    """
    settings = settings or PrepareSettings()
    progress = progress or _silent
    names = [str(source) for source in sources]
    media_dir = Path(db).absolute().with_suffix(".media")
    with Catalog(db, create=True) as catalog:
        staging = Staging(catalog)
        for source in sources:
            needs = settings.transcripts == "required"
            rows = read_source(source, settings.columns, settings.language, media_dir, needs_transcripts=needs)
            for count in staging.add(rows):
                progress("read", count, 0)
        decoded, cached = _probe(staging, settings.max_duration_seconds, workers, progress)
        staging.judge(_verdicts(staging, settings, progress))
        staging.refuse(
            (position, (RefusalReason.DUPLICATE, f"the same audio as {path}"))
            for position, path in staging.duplicates()
        )
        notes = _split(staging, settings)
        if feasibility is not None:
            staging.refuse(_infeasible(staging, feasibility))
        splits, refusals = staging.counts("split"), staging.counts("reason")
        if not splits:
            raise _nothing_usable(names, staging, refusals)
        progress("store", 0, sum(splits.values()))
        if unlabelled := staging.num_unlabelled():
            notes += (f"{unlabelled} recordings have no transcript: they serve pre-training alone",)
        version, is_new = staging.publish(names, asdict(settings), notes)
    return PrepareReport(version, is_new, splits, refusals, decoded, cached, notes)


def _probe(staging: Staging, max_seconds: float, workers: int | None, progress: Progress) -> tuple[int, int]:
    """Decode and measure what is not known yet; (decoded, known)."""
    workers = math.ceil(usable_cores()) if workers is None else workers
    total = staging.num_clips()
    under = judged_under(max_seconds)
    cached = 0

    def unknown() -> Iterator[ClipRequest]:
        nonlocal cached
        for request in staging.clips():
            if staging.remembered(request, under):
                cached += 1
                if cached % REMEMBER_EVERY == 0:
                    progress("decode", cached + decoded, total)
            else:
                yield request

    decoded = 0
    found: list[Probe] = []
    work = partial(examine, max_seconds=max_seconds)
    try:
        for request, probe in map_in_processes(work, unknown(), workers):
            found.append(probe or _killer(request, max_seconds))
            decoded += 1
            progress("decode", cached + decoded, total)
            if len(found) == REMEMBER_EVERY:
                staging.remember(found)
                found = []
    finally:  # an interrupt, too, leaves what was learnt
        staging.remember(found)
    return decoded, cached


def _killer(request: ClipRequest, max_seconds: float) -> Probe:
    detail = "expected audio; the process that decoded it died, by a fault of the decoder or for want of memory"
    return failed(request, max_seconds, RefusalReason.UNREADABLE, detail, lasting=False)


def _verdicts(
    staging: Staging, settings: PrepareSettings, progress: Progress
) -> Iterator[tuple[StagedRow, Probe, str, Finding | None]]:
    limits = settings.limits
    for count, (row, probe) in enumerate(staging.probed_rows(), 1):
        text = normalize(row.transcript, row.language)
        if probe.failure:
            finding: Finding | None = RefusalReason(probe.failure), probe.failure_detail
        else:
            finding = check_clip(probe.statistics, limits, row.claimed_seconds)
            if row.transcript or settings.transcripts == "required":
                finding = finding or check_transcript(row.transcript, text)
        yield row, probe, text, finding
        if count % REMEMBER_EVERY == 0:
            progress("check", count, 0)


def _split(staging: Staging, settings: PrepareSettings) -> tuple[str, ...]:
    rows = (
        SplitRow(utterance.utterance_id, utterance.speaker_id, utterance.split, utterance.duration_seconds)
        for _, utterance in staging.candidates()
    )
    plan = plan_splits(rows, valid_ratio=settings.valid_ratio, test_ratio=settings.test_ratio, seed=settings.split_seed)
    staging.set_splits(plan.split_of)
    return plan.notes


def _infeasible(staging: Staging, feasibility: Feasibility) -> Iterable[tuple[int, Finding]]:
    judge = feasibility([utterance.text for _, utterance in staging.candidates() if utterance.split == "train"])
    findings = ((position, judge(utterance)) for position, utterance in staging.candidates())
    return [(position, finding) for position, finding in findings if finding is not None]


def _nothing_usable(sources: Sequence[str], staging: Staging, refusals: dict[str, int]) -> DataError:
    if not refusals:
        return DataError(f"{', '.join(sources)}: expected recordings; received none")
    counted = ", ".join(f"{count} {reason}" for reason, count in refusals.items())
    shown = "".join(f"\n  - {item.audio_path}: {item.reason}: {item.detail}" for item in staging.refusals(5))
    return DataError(f"{', '.join(sources)}: expected a usable recording; received {counted}, such as{shown}")


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
