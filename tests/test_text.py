from __future__ import annotations

import random
import unicodedata

import pytest

from myna.text import normalize, tidy

# Letters, marks, apostrophes, joiners, emoji and oddities of every script, thickly sown.
_RANGES = (
    [range(0x20, 0x250)] * 3
    + [range(0x300, 0x370), range(0x370, 0x600), range(0x600, 0xE00), range(0xE00, 0x2100)] * 2
    + [range(0x2000, 0x2070), range(0x2100, 0xD800), range(0xE000, 0x11FFF), range(0x1F000, 0x1FAFF)]
)
_SPICE = "'ʻ’´\u200c\u200d\u0640\ufe0f\u0307İIıi\u034f\u094d\u0e4d\u0e32\u00ad"


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def random_text(draw: random.Random) -> str:
    letters = [
        draw.choice(_SPICE) if draw.random() < 0.4 else chr(draw.choice(draw.choice(_RANGES)))
        for _ in range(draw.randrange(1, 9))
    ]
    return "".join(letters)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_vietnamese_keeps_every_tone_in_any_form(form: str) -> None:
    published = unicodedata.normalize(form, "Má, mà; mả! MÃ mạ ma. Đường phố Hà Nội — Tiếng Việt?")  # type: ignore[arg-type]
    assert normalize(published, "vi") == "má mà mả mã mạ ma đường phố hà nội tiếng việt"


@pytest.mark.parametrize(
    ("language", "expected"),
    [("tr", "istanbul ığdır"), ("tr-TR", "istanbul ığdır"), ("tur", "istanbul ığdır"), ("en", "istanbul iğdir")],
)
@pytest.mark.parametrize("published", ["İSTANBUL IĞDIR", nfd("İSTANBUL IĞDIR"), "I\u0307STANBUL IĞDIR"])
def test_dotted_and_dotless_i(published: str, language: str, expected: str) -> None:
    assert normalize(published, language) == expected


def test_second_dot_that_plain_lower_casing_leaves_is_dropped() -> None:
    assert normalize("İstanbul".lower()) == normalize("İstanbul") == "istanbul"


@pytest.mark.parametrize(
    ("language", "published", "expected"),
    [
        ("kk", "ҚАЗАҚ: Әлем, Ғылым, Ұлы, Үй, Өзен, Ің, Һәм", "қазақ әлем ғылым ұлы үй өзен ің һәм"),
        ("ky", nfd("Кыргыз өңү, үй; ЙОД, ёлка"), "кыргыз өңү үй йод ёлка"),
        ("tt", "Җәләш мулла, хәбәр ала — ҖӨҢҮҺ", "җәләш мулла хәбәр ала җөңүһ"),
        ("ba", "Башҡорт ҙур, эҫе: Ҡ, Ҙ, Ҫ", "башҡорт ҙур эҫе ҡ ҙ ҫ"),
        ("az", "DİYARBƏKIR'da QIZ", "diyarbəkır'da qız"),
    ],
)
def test_turkic_letters(language: str, published: str, expected: str) -> None:
    assert normalize(published, language) == expected


@pytest.mark.parametrize("apostrophe", "'’‘ʼʻ`´＇")
@pytest.mark.parametrize("language", ["uz", "kaa"])
def test_uzbek_and_karakalpak_apostrophes_are_letters(apostrophe: str, language: str) -> None:
    published = f"O{apostrophe}zbek tog{apostrophe}, so{apostrophe}z!"
    assert normalize(published, language) == "o'zbek tog' so'z"


def test_quotes_are_no_apostrophes() -> None:
    assert normalize("'Don't' say ''hi'', the dogs' bone; rock’n’roll") == "don't say hi the dogs bone rock'n'roll"


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("नमस्ते दुनिया, ज़िन्दगी? हूँ।", "नमस्ते दुनिया ज़िन्दगी हूँ"),  # Hindi
        ("क्‍या", "क्‍या"),  # Hindi half letter with a joiner
        ("র‍্যাব, র্যাব", "র‍্যাব র্যাব"),  # Bengali: the joiner tells the two apart
        ("അവന്‍, ഒരു", "അവന്‍ ഒരു"),  # Malayalam chillu as older text writes it
        ("தமிழ் மொழி, கொ!", "தமிழ் மொழி கொ"),  # Tamil
        ("สวัสดีครับ น้ำ ทำ", "สวัสดีครับ น้ำ ทำ"),  # Thai
        ("ພາສາລາວ ນ້ຳ", "ພາສາລາວ ນ້ຳ"),  # Lao
        ("ភាសាខ្មែរ។ កម្ពុជា", "ភាសាខ្មែរ កម្ពុជា"),  # Khmer
        ("မြန်မာဘာသာ။", "မြန်မာဘာသာ"),  # Burmese
        ("བོད་སྐད།", "བོད སྐད"),  # Tibetan
        ("اَلْعَرَبِيَّةُ، كِتَابٌ؟", "اَلْعَرَبِيَّةُ كِتَابٌ"),  # Arabic with vowels
        ("العـــربية", "العربية"),  # stretched Arabic
        ("ﻻ ﷲ", "لا الله"),  # Arabic presentation forms
        ("שָׁלוֹם, עוֹלָם־רָחָב", "שָׁלוֹם עוֹלָם רָחָב"),  # Hebrew with vowels
        ("ג׳ירפה", "ג'ירפה"),  # Hebrew geresh
        ("می‌خواهم، کتاب‌ها", "می‌خواهم کتاب‌ها"),  # Persian half space
        ("می‌ خواهم‌", "می خواهم"),  # half space at a word's end
        ("你好，世界。Ａ１", "你好 世界 a1"),
        ("ｶﾞｷﾞ がぎ", "ガギ がぎ"),
        ("Привет, ёж!", "привет ёж"),
        ("п’ять об'єкт", "п'ять об'єкт"),
        ("ΟΔΟΣ Ωραία", "οδος ωραία"),
        ("Straße ﬁne Ⅷ", "straße fine viii"),
        ("3.14 1,000 x²", "3 14 1 000 x2"),
        ("co-operate a_b C++ & 50%", "co operate a b c 50"),
        ("soft\u00adhyphen \ufeffbom zero\u200bwidth \u200emark", "softhyphen bom zerowidth mark"),
        ("a\tb\nc\x00d\u3000e", "a b c d e"),
        ("Hello 👋🏽 world ❤️ 👨‍👩‍👧 1️⃣ ok👍", "hello world 1 ok"),
        ("Myna™️", "mynatm"),
        ("…—!?", ""),
        ("", ""),
    ],
)
def test_scripts_and_symbols(published: str, expected: str) -> None:
    expected = unicodedata.normalize("NFC", expected)
    assert normalize(published) == expected
    assert normalize(nfd(published)) == expected


@pytest.mark.parametrize("split", ["น\u0e49\u0e4d\u0e32", "น\u0e4d\u0e49\u0e32"])
def test_thai_am_is_one_letter_however_it_was_stored(split: str) -> None:
    assert normalize(split, "th") == "น้ำ"


def test_canonically_equal_texts_normalise_alike() -> None:
    draw = random.Random(1)
    for _ in range(5_000):
        text = random_text(draw)
        assert normalize(text) == normalize(nfd(text)), ascii(text)


@pytest.mark.parametrize("language", ["", "tr", "uz", "lt"])
def test_normalising_twice_changes_nothing(language: str) -> None:
    draw = random.Random(language)
    for _ in range(10_000):
        text = random_text(draw)
        once = normalize(text, language)
        assert normalize(once, language) == once, ascii(text)
        assert unicodedata.is_normalized("NFC", once)
        assert once == " ".join(once.split())


def test_tidy_touches_only_form_and_spaces() -> None:
    assert tidy(nfd("  Hà  Nội,\n“Phố”… ")) == "Hà Nội, “Phố”…"
    draw = random.Random(2)
    for _ in range(5_000):
        text = random_text(draw)
        assert tidy(tidy(text)) == tidy(text)
