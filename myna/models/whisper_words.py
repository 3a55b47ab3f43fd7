"""Words with times from Whisper: its tokens grouped, its cross-attention aligned.

The method is openai-whisper's: heads known to follow the speech, normalised, smoothed and aligned by dynamic time
warping (Giorgino 2009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import median_filter

from myna.models.ctc_decode import geometric_mean
from myna.samples import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import WhisperTokenizer

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # written without spaces between words
BROKEN_CHARACTER = "\ufffd"  # what half a UTF-8 character decodes to
FRAME_SECONDS = 0.02  # of the encoder
MEDIAN_WIDTH = 7  # frames


def token_starts(attention: NDArray[np.float32], num_prompt: int) -> list[float]:
    """When each token of the text, and the end token after it, begins.

    Args:
        attention: (heads, S, F) cross-attention of a decoder's sequence without its end token over the encoder frames
            that hold sound.
        num_prompt: tokens before the text.

    Returns:
        S - num_prompt + 1 times in seconds, none earlier than the one before.
    """
    spread = attention.std(axis=1, keepdims=True)
    normal = (attention - attention.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9)
    smooth = median_filter(normal, size=(1, 1, MEDIAN_WIDTH), mode="reflect").mean(axis=0)  # (S, F)
    # The position before a token is the one that looks for it.
    return [frame * FRAME_SECONDS for frame in first_frames(-smooth[num_prompt - 1 :])]


def first_frames(cost: NDArray[np.float32]) -> list[int]:
    """First column of each row on the cheapest way from the first cell to the last (dynamic time warping)."""
    num_rows, num_columns = cost.shape
    total = np.full((num_rows + 1, num_columns + 1), np.inf)
    total[0, 0] = 0.0
    for row, costs in enumerate(cost.tolist(), start=1):
        above, left, current = total[row - 1].tolist(), np.inf, total[row]
        for column in range(1, num_columns + 1):
            left = costs[column - 1] + min(above[column - 1], above[column], left)
            current[column] = left
    firsts = [0] * num_rows
    row, column = num_rows, num_columns
    while row > 0:
        firsts[row - 1] = column - 1
        steps = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        best = int(np.argmin(steps))
        row -= best in (0, 1)
        column -= best in (0, 2)
    return firsts


def group_words(
    tokenizer: WhisperTokenizer,
    ids: Sequence[int],
    starts: Sequence[float],
    confidences: Sequence[float],
    language: str,
) -> tuple[Word, ...]:
    """Words of a decoded text.

    A token with a leading space starts a word; tokens that hold parts of one character stay together. In languages
    without spaces every group of whole characters is a word.

    Args:
        tokenizer: Whisper's.
        ids: U text tokens.
        starts: U + 1 seconds, as `token_starts` gives them.
        confidences: probability of each token; more than tokens are passed over.
        language: Whisper's code.
    """
    found = []
    for first, after, text in _groups(tokenizer, ids, language):
        if text.strip():
            confidence = geometric_mean(list(confidences[first:after]))
            found.append(Word(text.strip(), starts[first], starts[after], confidence))
    return tuple(found)


def _groups(tokenizer: WhisperTokenizer, ids: Sequence[int], language: str) -> list[tuple[int, int, str]]:
    """First position, position after the last, and text of each word."""
    groups: list[tuple[int, int, str]] = []
    start = 0
    for after in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[start:after]), clean_up_tokenization_spaces=False)
        if BROKEN_CHARACTER in text and after < len(ids):
            continue
        if groups and not text.startswith(" ") and language not in UNSPACED_LANGUAGES:
            first, _, head = groups[-1]
            groups[-1] = (first, after, head + text)
        else:
            groups.append((start, after, text))
        start = after
    return groups
