"""Everyday Vietnamese sentences from a small vocabulary, so that a small model can learn them in minutes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from myna.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

# Each sentence pattern is as likely as the next; braces name a choice below, which may hold braces itself.
PATTERNS = (
    "{please}{switch} {device} {room}",
    "{switch} {device} {room} lúc {clock}",
    "{who} {trip} lúc {clock}",
    "{order} {number} {item}",
    "{call} {person} {when}",
    "{day} ở {city} trời {weather}",
    "{day} ở {city} có {weather} không",
    "đặt báo thức lúc {clock}",
    "nhắc {who} {task} lúc {clock}",
    "bây giờ là {clock}",
    "số {door} của {who} là {digit} {digit} {digit}",
    "{who} có {number} {item}",
)
CHOICES = {
    "please": ("", "làm ơn "),
    "switch": ("bật", "tắt"),
    "device": ("đèn", "quạt", "máy lạnh", "ti vi"),
    "room": ("phòng khách", "phòng ngủ", "nhà bếp"),
    "who": ("tôi", "mẹ", "bố", "chị lan", "anh nam"),
    "person": ("mẹ", "bố", "chị lan", "anh nam", "bác sĩ"),
    "trip": ("đi chợ", "đi làm", "về nhà", "đến trường", "đi {city}", "về {city}"),
    "city": ("hà nội", "huế", "đà nẵng", "sài gòn"),
    "order": ("cho tôi", "mua cho tôi", "mẹ muốn mua"),
    "item": ("ly cà phê", "ly trà", "bát phở", "ổ bánh mì", "quả cam", "chai nước"),
    "call": ("gọi cho", "nhắn tin cho"),
    "when": ("bây giờ", "tối nay", "sáng mai", "chiều mai", "lúc {clock}"),
    "day": ("hôm nay", "ngày mai", "tối nay", "sáng mai", "chiều mai"),
    "weather": ("nắng", "mưa", "lạnh", "nóng", "gió"),
    "task": ("uống nước", "mua bánh mì", "tắt đèn", "gọi bác sĩ"),
    "door": ("nhà", "phòng"),
    "clock": ("{early} giờ {half}sáng", "{small} giờ {half}chiều", "{early} giờ {half}tối"),
    "half": ("", "rưỡi "),
    "early": ("sáu", "bảy", "tám", "chín", "mười"),
    "small": ("một", "hai", "ba", "bốn", "năm"),
    "number": ("{small}", "{early}"),
    "digit": ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín"),
}
_BRACES = re.compile(r"\{(\w+)\}")
_MAX_REPEATS = 200  # draws in a row that bring nothing new


def make_sentences(count: int, rng: np.random.Generator) -> list[str]:
    """Draw `count` different sentences of 4 to 11 syllables (3 to 8 words), in lower case and without punctuation.

    Raises:
        DataError: the patterns do not hold that many different sentences.
    """
    sentences: dict[str, None] = {}  # a set that keeps its order
    repeats = 0
    while len(sentences) < count and repeats < _MAX_REPEATS:
        sentence = _fill(_pick(PATTERNS, rng), rng)
        repeats = repeats + 1 if sentence in sentences else 0
        sentences[sentence] = None
    if len(sentences) < count:
        raise DataError(f"expected at most about {len(sentences):,} different sentences; asked for {count:,}")
    return list(sentences)


def _fill(pattern: str, rng: np.random.Generator) -> str:
    """Replace each {choice} by one of its texts, until no braces are left."""
    while "{" in pattern:
        pattern = _BRACES.sub(lambda match: _pick(CHOICES[match[1]], rng), pattern, count=1)
    return pattern


def _pick(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
