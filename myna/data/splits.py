"""Splits for sources that name none, or not all: disjoint by speaker and reproducible from a seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class SplitRow(NamedTuple):
    """What splitting needs to know of an utterance."""

    utterance_id: str
    speaker_id: str  # "" when unknown: then the utterance counts as a speaker of its own
    split: str  # "" when the source names none
    duration_seconds: float


class SplitPlan(NamedTuple):
    """The splits that differ from what the source named."""

    split_of: dict[str, str]  # utterance ID -> split
    notes: tuple[str, ...]  # what was decided, for people


def plan_splits(rows: Iterable[SplitRow], *, valid_ratio: float, test_ratio: float, seed: int) -> SplitPlan:
    """Decide the splits that a source leaves open.

    - No row has a split: all are divided by speaker.
    - Some have one: they keep it. The others follow their speaker where that speaker has a split (train if
      several), and join train where not.
    - There is train but no valid: valid is taken from train, by speaker. A test split is never made beside named
      splits.

    The order of rows does not matter: speakers are drawn by a hash of the seed and their name.

    Args:
        rows: of the whole dataset.
        valid_ratio: share of hours for valid, 0 for none.
        test_ratio: share of hours for test, 0 for none.
        seed: another seed draws other speakers.
    """
    rows = list(rows)
    named = {row.split for row in rows} - {""}
    if not named:
        split_of, notes = _divide(rows, {"test": test_ratio, "valid": valid_ratio}, seed)
        return SplitPlan(split_of, notes)
    split_of = _follow_speakers([row for row in rows if row.split], [row for row in rows if not row.split])
    notes = (f"{len(split_of):,} rows without a split follow their speaker, or join train",) if split_of else ()
    train = [row for row in rows if split_of.get(row.utterance_id, row.split) == "train"]
    if train and "valid" not in {row.split or split_of[row.utterance_id] for row in rows} and valid_ratio > 0:
        moved, more_notes = _divide(train, {"valid": valid_ratio}, seed)
        split_of |= {utterance_id: split for utterance_id, split in moved.items() if split == "valid"}
        notes = (*notes, f"the source names no valid split: {valid_ratio:.0%} of train became valid", *more_notes)
    return SplitPlan(split_of, notes)


def _follow_speakers(placed: Sequence[SplitRow], open_rows: Sequence[SplitRow]) -> dict[str, str]:
    splits_of_speaker: dict[str, set[str]] = defaultdict(set)
    for row in placed:
        splits_of_speaker[row.speaker_id].add(row.split)
    splits_of_speaker.pop("", None)
    return {row.utterance_id: _first_split(splits_of_speaker.get(row.speaker_id, {"train"})) for row in open_rows}


def _first_split(splits: set[str]) -> str:
    return next(split for split in ("train", "valid", "test") if split in splits)


def _divide(rows: Sequence[SplitRow], shares: dict[str, float], seed: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Utterance ID -> split: the wanted share of the time to each split, what is left to train."""
    shares = {split: share for split, share in shares.items() if share > 0}
    needed = len(shares) + 1
    groups = _by_speaker(rows)
    notes: tuple[str, ...] = ()
    if len(rows) < needed:
        return dict.fromkeys((row.utterance_id for row in rows), "train"), (
            f"{len(rows)} utterances are too few for {needed} splits: all are train",
        )
    if len(groups) < needed:
        groups = {row.utterance_id: [row] for row in rows}
        notes = (f"too few speakers for {needed} disjoint splits: split by utterance, so the splits share speakers",)
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    # whole milliseconds: sums of floats would depend on the order of rows
    milliseconds = {name: sum(round(1000 * row.duration_seconds) for row in groups[name]) for name in order}
    total = sum(milliseconds.values())
    split_of: dict[str, str] = {}
    for position, (split, share) in enumerate(shares.items(), 1):
        # Each split that is still to come, and train, must get at least one group.
        drawn = _draw(order, milliseconds, share * total, len(order) - (needed - position))
        order = [name for name in order if name not in drawn]
        split_of.update((row.utterance_id, split) for name in drawn for row in groups[name])
    split_of.update((row.utterance_id, "train") for name in order for row in groups[name])
    return split_of, notes


def _draw(order: Sequence[str], milliseconds: dict[str, int], target: float, at_most: int) -> set[str]:
    """Groups in drawing order, each taken if that brings the sum nearer to the target; at least the shortest one."""
    taken: set[str] = set()
    drawn = 0
    for name in order:
        if len(taken) == at_most:
            break
        if abs(drawn + milliseconds[name] - target) < abs(drawn - target):
            taken.add(name)
            drawn += milliseconds[name]
    return taken or {min(order, key=lambda name: milliseconds[name])}


def _by_speaker(rows: Iterable[SplitRow]) -> dict[str, list[SplitRow]]:
    groups: dict[str, list[SplitRow]] = defaultdict(list)
    for row in rows:
        # the prefixes keep a speaker called like an utterance apart from it
        groups[f"speaker/{row.speaker_id}" if row.speaker_id else f"utterance/{row.utterance_id}"].append(row)
    return groups
