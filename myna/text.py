"""Transcript normalisation: one rule set for training labels and for scoring, safe for every script.

Whisper's multilingual normaliser drops every combining mark, which shatters Hindi, Thai or vowelled
Arabic, and its `remove_diacritics` erases Vietnamese tones. Here marks survive wherever they belong to a letter.
"""

from __future__ import annotations

import unicodedata

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʻ`´ʹ＇", "'"))
_DOTTED_I_LANGUAGES = frozenset({"tr", "az", "crh"})  # I lowers to ı there, and İ to i
_FINAL_APOSTROPHE_LANGUAGES = frozenset({"uz", "kaa"})  # oʻ, gʻ: the apostrophe is part of the letter
_KEEP_COMPATIBILITY = frozenset("ำຳ")  # NFKC would split Thai and Lao AM in two
_JOINERS = frozenset("\u200c\u200d")  # change the shape of Indic and Persian letters, so they are spelling
_TATWEEL = "\u0640"  # stretches Arabic words for looks


def normalize(text: str, language: str = "") -> str:
    """The spoken content of a transcript: lower case, no punctuation, single spaces, NFC.

    Letters, digits and the marks on letters are kept; apostrophes inside words are kept and unified.
    Numbers are left as written.

    Args:
        text: a transcript in any script and Unicode form.
        language: ISO 639 code; decides how Turkic I and Uzbek or Karakalpak apostrophes are read.

    Returns:
        The normalised text, "" when nothing speakable is left. Normalising twice changes nothing.
    """
    text = unicodedata.normalize("NFC", "".join(_compatible(char) for char in text))
    text = _lower(text.translate(_APOSTROPHES), language)
    kept: list[str] = []
    for position, char in enumerate(text):
        kept += char if _is_kept(text, position, kept, language) else _replacement(char)
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def tidy(text: str) -> str:
    """A transcript as published, in NFC with single spaces: what raw scores compare."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _compatible(char: str) -> str:
    return char if char in _KEEP_COMPATIBILITY else unicodedata.normalize("NFKC", char)


def _lower(text: str, language: str) -> str:
    if language in _DOTTED_I_LANGUAGES:
        text = text.replace("I", "ı")
    return text.replace("İ", "i").lower()


def _is_kept(text: str, position: int, kept: list[str], language: str) -> bool:
    char = text[position]
    category = unicodedata.category(char)
    after_letter = bool(kept) and unicodedata.category(kept[-1])[0] in "LM"
    if char == _TATWEEL:
        return False
    if category[0] in "LN":
        return True
    if category[0] == "M":  # a mark on nothing, such as an emoji's variation selector, is no spelling
        return after_letter
    if char == "'" or char in _JOINERS:
        before_letter = position + 1 < len(text) and unicodedata.category(text[position + 1])[0] == "L"
        final_allowed = char == "'" and language in _FINAL_APOSTROPHE_LANGUAGES
        return after_letter and (before_letter or final_allowed)
    return False


def _replacement(char: str) -> str:
    """Format characters vanish without a trace; punctuation, symbols and controls part words."""
    return "" if unicodedata.category(char) in ("Cf", "Mn", "Me", "Mc") or char == _TATWEEL else " "
