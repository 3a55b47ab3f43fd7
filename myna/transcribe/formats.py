"""Transcripts as text, subtitles and JSON: pure functions from a Transcript to a file's content."""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from myna.errors import ConfigError
from myna.samples import Transcript, Word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# What a viewer can read: two lines of 42 characters in at most 7 s, as broadcasters' subtitle guides ask.
MAX_LINE_CHARACTERS = 42
MAX_CUE_LINES = 2
MAX_CUE_SECONDS = 7.0
MIN_CUE_SECONDS = 1.0  # a shorter cue stays on screen until the next one starts or this is over
PAUSE_SECONDS = 0.8  # a silence this long ends a cue
SENTENCE_ENDS = tuple(".?!…。？！।؟။៕།")
MIN_SENTENCE_CHARACTERS = 20  # shorter sentences share a cue with the next


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle."""

    start_seconds: float
    end_seconds: float
    lines: tuple[str, ...]


def as_txt(transcript: Transcript) -> str:
    """The text and a line feed."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """All fields; times in seconds."""
    return json.dumps(asdict(transcript), ensure_ascii=False, indent=2) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    blocks = [
        f"{number}\n{_clock(cue.start_seconds, ',')} --> {_clock(cue.end_seconds, ',')}\n"
        + "".join(line.replace("-->", "->") + "\n" for line in cue.lines)
        for number, cue in enumerate(cues(transcript), start=1)
    ]
    return "\n".join(blocks)


def as_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles (W3C), with the characters escaped that would be markup."""
    blocks = [
        f"{_clock(cue.start_seconds, '.')} --> {_clock(cue.end_seconds, '.')}\n"
        + "".join(_escaped(line) + "\n" for line in cue.lines)
        for cue in cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_txt,
    "srt": as_srt,
    "vtt": as_vtt,
    "json": as_json,
}


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repeats.

    Raises:
        ConfigError: with every name that is no format.
    """
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        received = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError([f"format: expected some of {', '.join(FORMATS)}; received {received}"])
    return tuple(dict.fromkeys(names))


def cues(transcript: Transcript) -> list[Cue]:
    """Subtitles of readable length.

    Without word times, the text is spread evenly over the audio.
    """
    words = transcript.words or spread_evenly(transcript.text, transcript.duration_seconds)
    groups: list[list[Word]] = []
    for part in chain.from_iterable(map(_parts, words)):
        if groups and _joins(groups[-1], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return _lengthened([_cue(group) for group in groups], transcript.duration_seconds)


def _cue(group: list[Word]) -> Cue:
    start = group[0].start_seconds
    end = min(group[-1].end_seconds, start + MAX_CUE_SECONDS)  # some models let a word last until the next one
    return Cue(start, end, _lines([word.text for word in group]))


def _joins(group: list[Word], word: Word) -> bool:
    said = " ".join(member.text for member in group)
    if said.endswith(SENTENCE_ENDS) and len(said) >= MIN_SENTENCE_CHARACTERS:
        return False
    if word.start_seconds - group[-1].end_seconds >= PAUSE_SECONDS:
        return False
    if word.start_seconds + MIN_CUE_SECONDS - group[0].start_seconds > MAX_CUE_SECONDS:
        return False
    return len(_lines([*(member.text for member in group), word.text])) <= MAX_CUE_LINES


def _lines(words: Sequence[str]) -> tuple[str, ...]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= MAX_LINE_CHARACTERS:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return tuple(lines)


def _parts(word: Word) -> Iterator[Word]:
    """The word, or its equal parts where scripts without spaces make it longer than a line."""
    count = math.ceil(len(word.text) / MAX_LINE_CHARACTERS)
    edges = [_before_letter(word.text, len(word.text) * part // count) for part in range(count)]
    seconds_per_character = (word.end_seconds - word.start_seconds) / max(1, len(word.text))
    for start, end in zip(edges, [*edges[1:], len(word.text)], strict=True):
        yield replace(
            word,
            text=word.text[start:end],
            start_seconds=word.start_seconds + start * seconds_per_character,
            end_seconds=word.start_seconds + end * seconds_per_character,
        )


def _before_letter(text: str, position: int) -> int:
    while position > 0 and unicodedata.category(text[position])[0] == "M":
        position -= 1
    return position


def spread_evenly(text: str, duration_seconds: float) -> list[Word]:
    """The words of a text as if all its characters took equally long, with confidence 0."""
    seconds_per_character = duration_seconds / max(1, len(text))
    words, position = [], 0
    for piece in text.split():
        start = text.index(piece, position)
        position = start + len(piece)
        words.append(Word(piece, start * seconds_per_character, position * seconds_per_character, 0.0))
    return words


def _lengthened(found: list[Cue], duration_seconds: float) -> list[Cue]:
    limits = [*(cue.start_seconds for cue in found[1:]), duration_seconds]
    return [
        replace(cue, end_seconds=max(cue.end_seconds, min(cue.start_seconds + MIN_CUE_SECONDS, limit)))
        for cue, limit in zip(found, limits, strict=False)
    ]


def _clock(seconds: float, decimal_mark: str) -> str:
    """hours:minutes:seconds with milliseconds."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{decimal_mark}{milliseconds % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
