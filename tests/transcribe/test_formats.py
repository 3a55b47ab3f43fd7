from __future__ import annotations

import itertools
import json

import pytest

from myna.errors import ConfigError
from myna.samples import Transcript, Word
from myna.transcribe.formats import (
    FORMATS,
    MAX_CUE_LINES,
    MAX_CUE_SECONDS,
    MAX_LINE_CHARACTERS,
    as_json,
    as_srt,
    as_txt,
    as_vtt,
    check_formats,
    cues,
)


def spoken(text: str, *, seconds_per_word: float = 0.4, start: float = 0.0) -> list[Word]:
    return [
        Word(word, start + index * seconds_per_word, start + (index + 1) * seconds_per_word, 0.5)
        for index, word in enumerate(text.split())
    ]


def transcript(*words: Word, duration: float = 0.0) -> Transcript:
    end = words[-1].end_seconds if words else 0.0
    return Transcript(" ".join(w.text for w in words), 0.5, tuple(words), duration or end)


GREETING = Transcript(
    text="Xin chào <Hà Nội> & bạn -->",
    confidence=0.75,
    words=(
        Word("Xin", 0.0, 0.5, 0.5),
        Word("chào", 0.5, 1.0, 1.0),
        Word("<Hà", 3661.5, 3661.75, 1.0),
        Word("Nội>", 3661.75, 3662.0, 1.0),
        Word("&", 3662.0, 3662.25, 1.0),
        Word("bạn", 3662.25, 3662.4996, 1.0),
        Word("-->", 3662.5, 3663.0, 1.0),
    ),
    duration_seconds=3663.0,
    language="vi",
)


def test_txt() -> None:
    assert as_txt(GREETING) == "Xin chào <Hà Nội> & bạn -->\n"


def test_srt() -> None:
    assert as_srt(GREETING) == (
        "1\n00:00:00,000 --> 00:00:01,000\nXin chào\n\n2\n01:01:01,500 --> 01:01:03,000\n<Hà Nội> & bạn ->\n"
    )


def test_vtt_escapes_markup() -> None:
    assert as_vtt(GREETING) == (
        "WEBVTT\n"
        "\n"
        "00:00:00.000 --> 00:00:01.000\nXin chào\n"
        "\n"
        "01:01:01.500 --> 01:01:03.000\n&lt;Hà Nội&gt; &amp; bạn --&gt;\n"
    )


def test_json_holds_everything() -> None:
    read = json.loads(as_json(GREETING))
    words = tuple(Word(**word) for word in read.pop("words"))
    assert Transcript(**read, words=words) == GREETING
    assert "chào" in as_json(GREETING)


def test_silence_gives_valid_empty_files() -> None:
    silence = Transcript("", duration_seconds=3.0)
    assert {name: write(silence) for name, write in FORMATS.items() if name != "json"} == {
        "txt": "\n",
        "srt": "",
        "vtt": "WEBVTT\n",
    }


def test_long_speech_is_cut_into_readable_cues() -> None:
    said = spoken("The quick brown fox jumps over a lazy dog and then it runs away " * 20)
    found = cues(transcript(*said))
    assert " ".join(line for cue in found for line in cue.lines).split() == [word.text for word in said]
    for cue in found:
        assert len(cue.lines) <= MAX_CUE_LINES
        assert max(map(len, cue.lines)) <= MAX_LINE_CHARACTERS
        assert cue.end_seconds - cue.start_seconds <= MAX_CUE_SECONDS + 1e-9
    for cue, following in itertools.pairwise(found):
        assert cue.end_seconds <= following.start_seconds + 1e-9


def test_sentences_and_pauses_end_cues() -> None:
    first = spoken("This is the first sentence. And the second")
    second = spoken("after a pause", start=first[-1].end_seconds + 1.0)
    assert [cue.lines for cue in cues(transcript(*first, *second))] == [
        ("This is the first sentence.",),
        ("And the second",),
        ("after a pause",),
    ]


def test_short_cues_stay_for_a_second_when_there_is_room() -> None:
    words = [Word("Yes", 0.0, 0.2, 1.0), Word("no", 5.0, 5.1, 1.0), Word("so", 5.95, 6.0, 1.0)]
    times = [t for c in cues(transcript(*words, duration=6.5)) for t in (c.start_seconds, c.end_seconds)]
    assert times == pytest.approx([0.0, 1.0, 5.0, 5.95, 5.95, 6.5])


def test_script_without_spaces_is_cut_between_letters() -> None:
    text = "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีน" * 3
    found = cues(transcript(Word(text, 0.0, 20.0, 1.0)))
    assert "".join(line for cue in found for line in cue.lines) == text
    assert all(len(line) <= MAX_LINE_CHARACTERS + 2 for cue in found for line in cue.lines)
    assert not any(line[0] in "่้๊๋ิีึืุูัํ์็" for cue in found for line in cue.lines)
    assert found[0].start_seconds == 0.0
    assert found[-1].end_seconds == pytest.approx(20.0)


def test_text_without_word_times_is_spread_over_the_audio() -> None:
    found = cues(Transcript("one two three four five six seven eight " * 4, duration_seconds=30.0))
    assert len(found) > 1
    assert found[0].start_seconds == 0.0
    assert found[-1].end_seconds == pytest.approx(30.0, abs=0.3)


def test_formats_are_checked_at_once() -> None:
    assert check_formats(["srt", "txt", "srt"]) == ("srt", "txt")
    with pytest.raises(ConfigError, match="txt, srt, vtt, json; received 'doc', 'pdf'"):
        check_formats(["doc", "txt", "pdf"])
    with pytest.raises(ConfigError, match="received nothing"):
        check_formats([])
