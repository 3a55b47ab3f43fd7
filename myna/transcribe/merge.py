"""One transcript of consecutive windows; what two of them heard at a cut is said once."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from myna.models.ctc_decode import geometric_mean
from myna.samples import Transcript, Word
from myna.text import normalize
from myna.transcribe.formats import spread_evenly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.transcribe.windows import Window

JITTER_SECONDS = 0.5  # by how much two windows may differ about when the same word was said
# Thai, Lao, Tibetan, Myanmar, Khmer, Kana, Han: there a "word" may be a whole sentence.
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class _Unit:
    """What comes from one window or the other: a word, or in scripts without spaces a character."""

    key: str  # equal units have equal keys
    start_seconds: float  # in the recording, as its end
    end_seconds: float
    doubt_seconds: float  # how wrong these times may be because they are only interpolated
    confidence: float
    word: int  # position of its word among the window's
    first: int  # its place in the window's text
    after: int

    @property
    def middle_seconds(self) -> float:
        return (self.start_seconds + self.end_seconds) / 2


@dataclass(slots=True)
class _Heard:
    """A window's transcript, and what of it is kept."""

    window: Window
    transcript: Transcript
    text: str
    units: list[_Unit] = field(default_factory=list)  # none where the window shares nothing
    first: int = 0  # units[first:after] are kept
    after: int = 0
    separator: str = " "  # from the text before

    @property
    def kept_text(self) -> str:
        if self.units and self.first >= self.after:
            return ""
        start = self.units[self.first].first if self.first > 0 else 0
        end = self.units[self.after - 1].after if self.after < len(self.units) else len(self.text)
        return self.text[start:end].strip()

    @property
    def kept_words(self) -> list[Word]:
        words, start = self.transcript.words, self.window.start_seconds
        if not self.units:
            return [_later(word, start) for word in words]
        groups = groupby(self.units[self.first : self.after] if words else [], key=lambda unit: unit.word)
        return [_word(list(group), self.text, words[word].confidence) for word, group in groups]

    def is_one_word(self, unit: int) -> bool:
        """Whether a unit and the one before it are parts of one word."""
        return 0 < unit < len(self.units) and self.units[unit - 1].word == self.units[unit].word


def merged(
    windows: Sequence[Window], transcripts: Sequence[Transcript], duration_seconds: float, *, timestamps: bool
) -> Transcript:
    """One transcript of a recording.

    Where windows overlap, their words in the overlap are aligned, and the text changes over from one window to the
    other at the longest run of equal words said at the same time, as near to the cut as that run comes. Where no words
    agree, those whose middle lies before the cut are the left window's and the others the right one's, but for words
    that only one of them heard (kept) and pairs said at the same time (the more confident one is kept).

    A window that should have word times and has none takes part with its words spread evenly over it.

    Args:
        windows: of the whole recording, in order.
        transcripts: of each; overlapping ones with words.
        duration_seconds: of the recording.
        timestamps: whether the words are wanted.

    Returns:
        Times count from the start of the recording. The confidence weighs each window by the length of its kept text.
    """
    heard = [_heard(window, transcript) for window, transcript in zip(windows, transcripts, strict=True)]
    for left, right in pairwise(heard):
        if left.window.cut_after_seconds is not None:
            _change_over(left, right, left.window.cut_after_seconds)
    spoken = [part for part in heard if part.kept_text]
    return Transcript(
        text="".join(part.separator + part.kept_text for part in spoken)[len(spoken[0].separator) :] if spoken else "",
        confidence=geometric_mean([part.transcript.confidence for part in spoken for _ in part.kept_text]),
        words=tuple(_all_words(spoken)) if timestamps else (),
        duration_seconds=duration_seconds,
        language=spoken[0].transcript.language if spoken else "",
    )


def _heard(window: Window, transcript: Transcript) -> _Heard:
    if not window.overlaps:
        return _Heard(window, transcript, transcript.text)
    duration = window.clip.duration_seconds
    words = transcript.words or spread_evenly(transcript.text, duration)
    text, places = _places(transcript.text, [word.text for word in words])
    units = [
        unit
        for index, (word, place) in enumerate(zip(words, places, strict=True))
        for unit in _units(_later(word, window.start_seconds), index, place, transcript.language)
    ]
    if not transcript.words:
        units = [replace(unit, doubt_seconds=duration / 2) for unit in units]
    return _Heard(window, transcript, text, units, 0, len(units))


def _places(text: str, words: Sequence[str]) -> tuple[str, list[int]]:
    """The text and where in it each word starts; where they do not spell the text, the words with spaces instead."""
    places: list[int] = []
    after = 0
    for word in words:
        place = text.find(word, after)
        if place < 0 or text[after:place].strip():
            joined = " ".join(words)
            return (joined, _places(joined, words)[1]) if joined != text else (text, places)
        places.append(place)
        after = place + len(word)
    return text, places


def _units(word: Word, index: int, place: int, language: str) -> list[_Unit]:
    edges = [position for position in range(len(word.text)) if _starts_unit(word.text, position)]
    seconds_per_character = (word.end_seconds - word.start_seconds) / max(1, len(word.text))
    doubt_seconds = (word.end_seconds - word.start_seconds) / 2 if len(edges) > 1 else 0.0
    return [
        _Unit(
            key=normalize(word.text[first:after], language) or word.text[first:after],
            start_seconds=word.start_seconds + first * seconds_per_character,
            end_seconds=word.start_seconds + after * seconds_per_character,
            doubt_seconds=doubt_seconds,
            confidence=word.confidence,
            word=index,
            first=place + first,
            after=place + after,
        )
        for first, after in pairwise([*edges, len(word.text)])
    ]


def _starts_unit(text: str, position: int) -> bool:
    """At the head of a word, and at letters, not marks or punctuation, of scripts without spaces or just after them."""
    if position == 0:
        return True
    if unicodedata.category(text[position])[0] not in "LN":
        return False
    return bool(UNSPACED.match(text[position]) or UNSPACED.match(text[position - 1]))


def _change_over(left: _Heard, right: _Heard, cut_seconds: float) -> None:
    """Decide what is kept of both sides of a cut."""
    tail = [
        index
        for index, unit in enumerate(left.units)
        if unit.middle_seconds + unit.doubt_seconds >= right.window.start_seconds - JITTER_SECONDS
    ]
    head = [
        index
        for index, unit in enumerate(right.units)
        if unit.middle_seconds - unit.doubt_seconds <= left.window.end_seconds + JITTER_SECONDS
    ]
    first = tail[0] if tail else len(left.units)
    after = head[-1] + 1 if head else 0
    near_left, near_right = left.units[first:], right.units[:after]
    kept, passed = _at_match(near_left, near_right, cut_seconds) or _by_middle(near_left, near_right, cut_seconds)
    left.after, right.first = first + kept, passed
    # Whether words are written apart here, either window shows where it goes on over the change.
    if left.after < len(left.units) and left.after > 0:
        right.separator = left.text[left.units[left.after - 1].after : left.units[left.after].first]
    elif 0 < right.first < len(right.units):
        right.separator = right.text[right.units[right.first - 1].after : right.units[right.first].first]


def _at_match(left: Sequence[_Unit], right: Sequence[_Unit], cut_seconds: float) -> tuple[int, int] | None:
    """How many units to keep of the left and to pass over of the right; None where no two agree."""
    matcher = SequenceMatcher(None, [unit.key for unit in left], [unit.key for unit in right], autojunk=False)
    runs = [
        [
            (block.a + step, block.b + step)
            for step in range(block.size)
            if _is_same_time(left[block.a + step], right[block.b + step])
        ]
        for block in matcher.get_matching_blocks()
    ]

    def seconds_after_cut(pair: tuple[int, int]) -> float:
        return (left[pair[0]].middle_seconds + right[pair[1]].middle_seconds) / 2 - cut_seconds

    candidates = [(-len(run), abs(seconds_after_cut(pair)), pair) for run in runs for pair in run]
    if not candidates:
        return None
    *_, best = min(candidates)  # of the longest run, the pair nearest to the cut
    is_left = seconds_after_cut(best) < 0
    return best[0] + is_left, best[1] + is_left


def _is_same_time(left: _Unit, right: _Unit) -> bool:
    apart = abs(left.middle_seconds - right.middle_seconds)
    return apart <= JITTER_SECONDS + left.doubt_seconds + right.doubt_seconds


def _by_middle(left: Sequence[_Unit], right: Sequence[_Unit], cut_seconds: float) -> tuple[int, int]:
    """The same where no units agree."""
    kept = sum(unit.middle_seconds < cut_seconds for unit in left)
    passed = sum(unit.middle_seconds < cut_seconds for unit in right)
    while passed > 0 and (kept == 0 or not _overlap(left[kept - 1], right[passed - 1])):
        passed -= 1
    while kept < len(left) and (passed == len(right) or not _overlap(left[kept], right[passed])):
        kept += 1
    if kept > 0 and passed < len(right) and _overlap(left[kept - 1], right[passed]):
        is_left = left[kept - 1].confidence >= right[passed].confidence
        return (kept, passed + 1) if is_left else (kept - 1, passed)
    return kept, passed


def _overlap(left: _Unit, right: _Unit) -> bool:
    """Whether a unit of the left window reaches over half of the one of the right, or begins after it."""
    shorter = min(left.end_seconds - left.start_seconds, right.end_seconds - right.start_seconds)
    return left.end_seconds - right.start_seconds > shorter / 2


def _all_words(parts: Sequence[_Heard]) -> list[Word]:
    words: list[Word] = []
    cuts_word = False  # the window before ends within a word
    for part in parts:
        following = part.kept_words
        if words and part.window.cut_before_seconds is not None:
            following = [_not_before(word, words[-1].end_seconds) for word in following]
        if words and following and part.separator == "" and (cuts_word or part.is_one_word(part.first)):
            words[-1] = _glued(words[-1], following.pop(0))
        words += following
        cuts_word = part.is_one_word(part.after)
    return words


def _word(units: Sequence[_Unit], text: str, confidence: float) -> Word:
    return Word(text[units[0].first : units[-1].after], units[0].start_seconds, units[-1].end_seconds, confidence)


def _glued(left: Word, right: Word) -> Word:
    confidence = geometric_mean([left.confidence] * len(left.text) + [right.confidence] * len(right.text))
    return Word(left.text + right.text, left.start_seconds, right.end_seconds, confidence)


def _not_before(word: Word, seconds: float) -> Word:
    """Two windows' clocks differ: a word does not start before the one ahead of it has ended."""
    start, end = max(word.start_seconds, seconds), max(word.end_seconds, seconds)
    return replace(word, start_seconds=start, end_seconds=end)


def _later(word: Word, seconds: float) -> Word:
    return replace(word, start_seconds=word.start_seconds + seconds, end_seconds=word.end_seconds + seconds)
