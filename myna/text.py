"""Transcript normalisation: one rule set for training labels and for scoring, safe for every script.

Whisper's multilingual normaliser drops every combining mark, which shatters Hindi, Thai or vowelled
Arabic, and its `remove_diacritics` erases Vietnamese tones. Here marks survive wherever they belong to a letter.
"""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = frozenset("'’‘ʼʻ`´ʹ＇׳")
_DOTTED_I_LANGUAGES = frozenset({"tr", "tur", "az", "aze", "crh", "gag"})  # I lowers to ı there, and İ to i
_FINAL_APOSTROPHE_LANGUAGES = frozenset({"uz", "uzb", "kaa"})  # oʻ, gʻ: the apostrophe is part of the letter
_KEEP_COMPATIBILITY = frozenset("ำຳ")  # NFKC would split Thai and Lao AM in two
_SPLIT_AM = re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32|\u0ecd([\u0ec8-\u0ecb]?)\u0eb2")  # as NFKC leaves it
_ZWNJ, _ZWJ = "\u200c", "\u200d"  # change the shape of Indic and Persian letters, so they are spelling
_JOINERS = frozenset(_ZWNJ + _ZWJ)
_TATWEEL = "\u0640"  # stretches Arabic words for looks
_GRAPHEME_JOINER = "\u034f"  # invisible, without a meaning of its own
_VARIATION_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))  # choose a glyph: emoji or text
_VIRAMA = 9  # canonical combining class


def normalize(text: str, language: str = "") -> str:
    """The spoken content of a transcript: lower case, no punctuation, single spaces, NFC.

    Letters, digits and the marks on letters are kept; apostrophes inside words are kept and unified.
    Numbers are left as written.

    Args:
        text: a transcript in any script and Unicode form.
        language: ISO 639 code, with or without a region; decides how Turkic I and Uzbek or Karakalpak
            apostrophes are read.

    Returns:
        The normalised text, "" when nothing speakable is left. Normalising twice changes nothing.
    """
    language = re.split("[-_]", language.lower())[0]
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_SPELLINGS))
    text = _lower(_SPLIT_AM.sub(_join_am, text), language)
    words = (word if word.isalnum() else _spoken(word, language) for word in text.split())
    return unicodedata.normalize("NFC", " ".join(" ".join(words).split()))


def tidy(text: str) -> str:
    """A transcript as published, in NFC with single spaces: what raw scores compare."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class _Spellings(dict[int, str]):
    """Every character's compatible spelling, worked out when first met: a table for `str.translate`."""

    def __missing__(self, codepoint: int) -> str:
        char = chr(codepoint)
        as_is = char in _KEEP_COMPATIBILITY or char in _APOSTROPHES
        spelling = char if as_is else unicodedata.normalize("NFKC", char)
        self[codepoint] = "".join(_unified(part) for part in spelling)
        return self[codepoint]


_SPELLINGS = _Spellings()


def _unified(char: str) -> str:
    """One apostrophe for all, and nothing for characters that only steer how others look."""
    if char in _APOSTROPHES:
        return "'"
    if char in _JOINERS:
        return char
    selects_glyph = any(ord(char) in selectors for selectors in _VARIATION_SELECTORS)
    invisible = selects_glyph or char in (_TATWEEL, _GRAPHEME_JOINER) or unicodedata.category(char) == "Cf"
    return "" if invisible else char


def _join_am(match: re.Match[str]) -> str:
    return (match[1] + "\u0e33") if match[1] is not None else (match[2] + "\u0eb3")


def _lower(text: str, language: str) -> str:
    if language in _DOTTED_I_LANGUAGES:
        text = text.replace("I", "ı")
    # Lower-casing İ elsewhere leaves an i with a second dot, which others' transcripts may already hold.
    return re.sub("i\u0307+", "i", text.replace("İ", "i").lower())


def _spoken(word: str, language: str) -> str:
    kept = ""
    for position, char in enumerate(word):
        following = word[position + 1 : position + 2]
        if _is_kept(char, kept[-1:], following, language):
            kept += char
        elif char not in _JOINERS and unicodedata.category(char)[0] != "M":
            kept += " "  # punctuation, symbols and controls part words
    return kept


def _is_kept(char: str, before: str, following: str, language: str) -> bool:
    category = unicodedata.category(char)[0]
    follows_letter = before != "" and unicodedata.category(before)[0] in "LM"
    if category in "LN":
        return True
    if category == "M":  # a mark on nothing is no spelling
        return follows_letter or before in _JOINERS
    if char == "'":
        return follows_letter and (_is(following, "L") or language in _FINAL_APOSTROPHE_LANGUAGES)
    if char in _JOINERS:  # a final joiner after a virama writes a Malayalam chillu
        ends_chillu = char == _ZWJ and unicodedata.combining(before or " ") == _VIRAMA
        return follows_letter and (_is(following, "LM") or ends_chillu)
    return False


def _is(char: str, categories: str) -> bool:
    return char != "" and unicodedata.category(char)[0] in categories
