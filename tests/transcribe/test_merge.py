from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from myna.samples import AudioClip, Transcript, Word
from myna.transcribe.merge import merged
from myna.transcribe.windows import Window

CUT = 8.5  # between windows of 0 to 10 and 7 to 17 s
WORD_SECONDS = 0.4


def words(text: str, first_seconds: float, confidence: float = 0.9) -> tuple[Word, ...]:
    """A word every half second; times count from the start of the recording."""
    starts = [first_seconds + 0.5 * position for position in range(len(text.split()))]
    return tuple(Word(word, s, s + WORD_SECONDS, confidence) for word, s in zip(text.split(), starts, strict=True))


def merge(left: tuple[Word, ...], right: tuple[Word, ...], separator: str = " ", language: str = "") -> Transcript:
    """Two windows of 10 s that overlap from 7 to 10 s."""
    silence = AudioClip(np.zeros(10_000, dtype=np.float32), 1_000)
    windows = [Window(0.0, silence, None, CUT), Window(7.0, silence, CUT, None)]
    transcripts = [
        Transcript(
            separator.join(word.text for word in said),
            0.9,
            tuple(
                replace(word, start_seconds=word.start_seconds - start, end_seconds=word.end_seconds - start)
                for word in said
            ),
            language=language,
        )
        for said, start in ((left, 0.0), (right, 7.0))
    ]
    heard = merged(windows, transcripts, 17.0, timestamps=True)
    assert heard.duration_seconds == 17.0
    assert "".join(word.text for word in heard.words) == heard.text.replace(" ", "")
    return heard


@pytest.mark.parametrize("left_late", [0.0, 0.2])
@pytest.mark.parametrize("right_late", np.arange(-0.25, 0.3, 0.05))
def test_what_both_windows_heard_appears_once_whatever_their_clocks_say(left_late: float, right_late: float) -> None:
    left = words("a b c d e f g h", 6.0 + left_late)
    right = words("c d e f g h i j k", 7.0 + right_late)
    heard = merge(left, right)
    assert heard.text == "a b c d e f g h i j k"
    # Times are those of the window that a word comes from, in order.
    times = [time for word in heard.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert heard.words[:4] == left[:4]
    assert [word.start_seconds for word in heard.words[6:]] == pytest.approx([w.start_seconds for w in right[4:]])


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.2])
def test_a_word_astride_the_cut_appears_once(shift: float) -> None:
    across = Word("astride", CUT - 0.3 + shift, CUT + 0.3 + shift, 0.9)
    assert merge((*words("far", 7.5), across), (across, *words("away", 9.2))).text == "far astride away"


def test_words_said_twice_stay_twice() -> None:
    left, right = words("it is very very very good", 7.1), words("very very very good indeed", 8.1)
    assert merge(left, right).text == "it is very very very good indeed"


def test_words_that_a_window_cuts_off_come_from_the_other() -> None:
    left = (*words("we went down to the", 7.1), Word("har.", 9.6, 10.0, 0.4))
    right = (Word("ent", 7.0, 7.5, 0.4), *words("down to the harbour again", 8.1))
    assert merge(left, right).text == "we went down to the harbour again"


def test_case_and_punctuation_at_the_ends_of_windows_do_not_matter() -> None:
    assert merge(words("in the old House.", 7.0), words("The old house, we", 7.5)).text == "in the old house, we"


def test_equal_words_said_at_other_times_are_not_the_same_word() -> None:
    left, right = words("the cat", 7.2), words("the dog", 9.0)
    assert merge(left, right).text == "the cat the dog"


def test_without_agreement_the_middle_decides() -> None:
    left = words("a b c d e f", 7.1)  # middles 7.3, 7.8, 8.3 | 8.8, 9.3, 9.8
    right = words("u v w x y z", 7.1)
    assert merge(left, right).text == "a b c x y z"


@pytest.mark.parametrize(("left_confidence", "expected"), [(0.8, "a colour z"), (0.2, "a color z")])
def test_of_two_spellings_of_a_sound_around_the_cut_the_surer_one_stays(left_confidence: float, expected: str) -> None:
    left = (*words("a", 7.5), Word("colour", 8.1, 8.7, left_confidence))
    right = (Word("color", 8.3, 8.9, 0.5), *words("z", 9.5))
    assert merge(left, right).text == expected
    left = (*words("a", 7.5), Word("colour", 8.3, 8.9, left_confidence))  # each says it lies on the other's side
    right = (Word("color", 8.1, 8.7, 0.5), *words("z", 9.5))
    assert merge(left, right).text in ("a colour z", "a color z")


def test_what_only_one_window_heard_is_kept() -> None:
    assert merge(words("a b", 1.0), words("c d e", 7.2)).text == "a b c d e"  # the left one fell silent
    assert merge(words("a b c", 8.4), words("d e", 11.0)).text == "a b c d e"


@pytest.mark.parametrize(("left", "right", "expected"), [("", "c d", "c d"), ("a b", "", "a b"), ("", "", "")])
def test_windows_without_speech(left: str, right: str, expected: str) -> None:
    heard = merge(words(left, 8.1), words(right, 8.1))
    assert (heard.text, heard.confidence > 0) == (expected, expected != "")


def test_confidence_weighs_what_is_kept() -> None:
    silence = AudioClip(np.zeros(10_000, dtype=np.float32), 1_000)
    windows = [Window(0.0, silence, None, CUT), Window(7.0, silence, CUT, None)]
    sure = Transcript("aa bb", 0.8, (Word("aa", 7.5, 7.9, 0.8), Word("bb", 8.0, 8.4, 0.8)), 10.0, "en")
    unsure = Transcript("bb cc", 0.2, (Word("bb", 1.0, 1.4, 0.2), Word("cc", 1.9, 2.3, 0.2)), 10.0, "de")
    heard = merged(windows, [sure, unsure], 17.0, timestamps=False)
    assert heard == Transcript("aa bb cc", pytest.approx((0.8**5 * 0.2**2) ** (1 / 7)), (), 17.0, "en")


def test_windows_that_meet_in_a_pause_are_joined_as_they_are() -> None:
    clip = AudioClip(np.zeros(5_000, dtype=np.float32), 1_000)
    windows = [Window(5.0 * position, clip) for position in range(3)]
    said = [Transcript("a a", 0.5, words("a a", 4.0)), Transcript(""), Transcript("a b", 0.5, words("a b", 0.1))]
    heard = merged(windows, said, 15.0, timestamps=True)
    assert (heard.text, heard.confidence) == ("a a a b", pytest.approx(0.5))
    assert [word.start_seconds for word in heard.words] == [4.0, 4.5, 10.1, 10.6]


def test_three_windows_in_a_row() -> None:
    clip = AudioClip(np.zeros(10_000, dtype=np.float32), 1_000)
    windows = [Window(0.0, clip, None, 8.5), Window(7.0, clip, 8.5, 15.5), Window(14.0, clip, 15.5)]
    tape = words(" ".join(f"w{number}" for number in range(48)), 0.0)
    said = []
    for window in windows:
        inside = [w for w in tape if window.start_seconds <= w.start_seconds and w.end_seconds <= window.end_seconds]
        local = tuple(
            replace(
                w,
                start_seconds=w.start_seconds - window.start_seconds,
                end_seconds=w.end_seconds - window.start_seconds,
            )
            for w in inside
        )
        said.append(Transcript(" ".join(w.text for w in local), 0.9, local))
    heard = merged(windows, said, 24.0, timestamps=True)
    assert heard.text == " ".join(word.text for word in tape)
    assert [w.start_seconds for w in heard.words] == pytest.approx([w.start_seconds for w in tape])


def test_without_word_times_words_are_spread_over_the_windows() -> None:
    said = [f"w{number:02}" for number in range(34)]  # two a second
    clip = AudioClip(np.zeros(10_000, dtype=np.float32), 1_000)
    windows = [Window(0.0, clip, None, CUT), Window(7.0, clip, CUT)]
    transcripts = [Transcript(" ".join(said[:20]), 0.9), Transcript(" ".join(said[14:]), 0.9)]
    heard = merged(windows, transcripts, 17.0, timestamps=True)
    assert (heard.text, heard.words) == (" ".join(said), ())


def test_words_in_scripts_without_spaces_are_joined_without() -> None:
    left = (Word("今天", 7.0, 7.4, 0.9), Word("天气", 7.5, 8.0, 0.9), Word("很好，", 8.1, 8.6, 0.9))
    right = (Word("天气", 7.5, 8.0, 0.9), Word("很好，", 8.1, 8.6, 0.9), Word("我们", 9.0, 9.4, 0.9))
    heard = merge(left, right, separator="", language="zh")
    assert heard.text == "今天天气很好，我们"


def test_a_sentence_without_spaces_is_taken_apart_and_stays_one_word() -> None:
    sentence = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวน"
    left, right = sentence[:24], sentence[12:]
    heard = merge((Word(left, 1.0, 10.0, 0.9),), (Word(right, 7.0, 15.0, 0.9),), language="th")
    assert heard.text == sentence
    assert [(word.text, word.start_seconds) for word in heard.words] == [(sentence, 1.0)]
    assert heard.words[0].end_seconds == pytest.approx(15.0)


def test_words_that_do_not_spell_the_text_replace_it() -> None:
    clip = AudioClip(np.zeros(10_000, dtype=np.float32), 1_000)
    windows = [Window(0.0, clip, None, CUT), Window(7.0, clip, CUT)]
    said = [
        Transcript("it cost £5", 0.9, words("it cost five", 7.0)),
        Transcript("cost £5 in all", 0.9, words("cost five in all", 0.5)),
    ]
    assert merged(windows, said, 17.0, timestamps=False).text == "it cost five in all"
