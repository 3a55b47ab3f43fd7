"""CTC decoding of one clip: greedy, prefix beam search, forced alignment, and words with times.

Knows nothing of models: input is a table of log-probabilities, one row a frame, cut to the clip's own length.
Connectionist temporal classification, Graves et al. 2006; prefix beam search, Hannun et al. 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from myna.errors import ModelError
from myna.samples import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

BLANK_ID = 0
WORD_BOUNDARY = "▁"
TOKEN_FLOOR = -10.0  # log-probability under which a frame's token starts nothing new in the beam search


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A recognised token sequence; U tokens."""

    ids: tuple[int, ...]  # U
    frames: tuple[int, ...]  # U, first frame of each token
    end_frames: tuple[int, ...]  # U, the frame after its last one
    confidences: tuple[float, ...]  # U, [0, 1]: the highest probability the token reaches in its frames
    score: float  # log-probability: of the best path (greedy), summed over the paths found (beam search)


def greedy(log_probs: ArrayLike) -> Hypothesis:
    """The most probable token of each frame, with repeats joined and blanks dropped.

    Args:
        log_probs: (T, V) log-probabilities of one clip; V counts the blank, which is token 0.

    Raises:
        ModelError: the table is not two-dimensional or has frames of NaN or infinity.
    """
    table = _checked(log_probs)
    best = table.argmax(axis=1)  # (T,)
    changes = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(changes[1:], len(best))[: len(changes)]
    spoken = best[changes] != BLANK_ID
    score = float(table.max(axis=1).sum())
    return _hypothesis(table, best[changes[spoken]], changes[spoken], ends[spoken], score)


def beam_search(log_probs: ArrayLike, beam_width: int, *, token_floor: float = TOKEN_FLOOR) -> Hypothesis:
    """The most probable token sequence, adding up all the alignments that spell it.

    Exact when the beam holds every prefix and nothing is under the floor; times come from the best alignment
    of the winner.

    Args:
        log_probs: (T, V) log-probabilities of one clip; V counts the blank, which is token 0.
        beam_width: prefixes kept after each frame, at least 1.
        token_floor: tokens under this log-probability are not tried in a frame; -inf tries all.

    Raises:
        ModelError: the table is not two-dimensional or has frames of NaN or infinity.
    """
    table = _checked(log_probs)
    prefixes, beam = _Prefixes(), _Beam.start()
    for frame in table:
        beam = _advance(beam, frame, prefixes, beam_width, token_floor)
    totals = np.logaddexp(beam.ends_in_blank, beam.ends_in_token)
    winner = int(totals.argmax())
    ids = np.array(prefixes.spell(beam.nodes[winner]), dtype=np.int64)
    starts, ends = align_tokens(table, ids)
    return _hypothesis(table, ids, starts, ends, float(totals[winner]))


def align_tokens(log_probs: ArrayLike, ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The most probable frames of a known token sequence (Viterbi forced alignment).

    Args:
        log_probs: (T, V) log-probabilities of one clip.
        ids: (U,) tokens without blanks.

    Returns:
        First frame and frame after the last one of each token, each (U,).

    Raises:
        ModelError: the tokens do not fit: fewer frames than tokens and adjacent repeats, or probability 0.
    """
    table, tokens = _checked(log_probs), np.asarray(ids, dtype=np.int64)
    if len(tokens) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    states = np.full(2 * len(tokens) + 1, BLANK_ID, dtype=np.int64)  # (S,) blank t1 blank t2 ... blank
    states[1::2] = tokens
    path = _best_path(table[:, states], states)
    at_token = [np.flatnonzero(path == 2 * index + 1) for index in range(len(tokens))]
    if any(len(frames) == 0 for frames in at_token):
        raise ModelError(f"expected tokens that fit into {len(table)} frames; received {len(tokens)} tokens")
    return np.array([f[0] for f in at_token]), np.array([f[-1] + 1 for f in at_token])


def words(hypothesis: Hypothesis, pieces: Sequence[str], frame_seconds: float) -> tuple[Word, ...]:
    """The words of a hypothesis with times and confidences.

    Args:
        hypothesis: tokens of one clip.
        pieces: (V,) what each token spells; "▁" starts a word, at the head of a piece or as a token of its
            own, and "" spells nothing.
        frame_seconds: length of one encoder frame.

    Returns:
        Words in order. A word's confidence is the geometric mean of its tokens' confidences.
    """
    found: list[Word] = []
    spelling, members = "", list[int]()

    def close() -> None:
        if spelling:
            start = hypothesis.frames[members[0]] * frame_seconds
            end = hypothesis.end_frames[members[-1]] * frame_seconds
            confidence = geometric_mean([hypothesis.confidences[index] for index in members])
            found.append(Word(spelling, start, end, confidence))

    for index, token in enumerate(hypothesis.ids):
        piece = pieces[token]
        if piece.startswith(WORD_BOUNDARY):
            close()
            spelling, members = "", []
        letters = piece.removeprefix(WORD_BOUNDARY)
        if letters:
            spelling += letters
            members.append(index)
    close()
    return tuple(found)


def geometric_mean(probabilities: Sequence[float]) -> float:
    """Geometric mean of probabilities: one unsure token pulls a word down; 0 when there is none."""
    if not probabilities or min(probabilities) <= 0:
        return 0.0
    return math.exp(sum(math.log(probability) for probability in probabilities) / len(probabilities))


@dataclass(slots=True)
class _Prefixes:
    """Token sequences as a tree; node 0 is the empty one."""

    parents: list[int] = field(default_factory=lambda: [-1])
    tokens: list[int] = field(default_factory=lambda: [-1])
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def child(self, node: int, token: int) -> int:
        """The node that continues `node` with `token`, the same one every time."""
        known = self.children.get((node, token))
        if known is None:
            known = self.children[node, token] = len(self.parents)
            self.parents.append(node)
            self.tokens.append(token)
        return known

    def spell(self, node: int) -> list[int]:
        """Tokens from the root to `node`."""
        ids = []
        while node:
            ids.append(self.tokens[node])
            node = self.parents[node]
        return ids[::-1]


@dataclass(frozen=True, slots=True)
class _Beam:
    """The K prefixes kept after a frame, each with the log-probability of its paths by how they end."""

    nodes: list[int]  # K
    last: NDArray[np.int64]  # (K,) last token, -1 for the empty prefix
    ends_in_blank: NDArray[np.float64]  # (K,)
    ends_in_token: NDArray[np.float64]  # (K,)

    @staticmethod
    def start() -> _Beam:
        return _Beam([0], np.array([-1]), np.array([0.0]), np.array([-np.inf]))


def _advance(beam: _Beam, frame: NDArray[np.float64], prefixes: _Prefixes, width: int, token_floor: float) -> _Beam:
    tokens = np.flatnonzero(frame >= min(token_floor, frame.max()))
    tokens = tokens[tokens != BLANK_ID]  # (C,)
    total = np.logaddexp(beam.ends_in_blank, beam.ends_in_token)  # (K,)
    stay_blank = total + frame[BLANK_ID]
    stay_token = beam.ends_in_token + frame[beam.last]
    # A token starts anew after its own like only across a blank.
    repeats = tokens[None, :] == beam.last[:, None]
    grown = np.where(repeats, beam.ends_in_blank[:, None], total[:, None]) + frame[tokens]  # (K, C)
    _merge(beam, prefixes, tokens, grown, stay_token)

    scores = np.concatenate([np.logaddexp(stay_blank, stay_token), grown.ravel()])  # (K + K*C,)
    kept = np.argpartition(-scores, width - 1)[:width] if len(scores) > width else np.arange(len(scores))
    kept = kept[scores[kept] > -np.inf]
    stays, grows = kept[kept < len(total)], kept[kept >= len(total)] - len(total)
    rows, columns = np.divmod(grows, max(1, len(tokens)))
    born = [
        prefixes.child(beam.nodes[row], int(tokens[column]))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return _Beam(
        [beam.nodes[index] for index in stays] + born,
        np.concatenate([beam.last[stays], tokens[columns]]),
        np.concatenate([stay_blank[stays], np.full(len(born), -np.inf)]),
        np.concatenate([stay_token[stays], grown[rows, columns]]),
    )


def _merge(
    beam: _Beam,
    prefixes: _Prefixes,
    tokens: NDArray[np.int64],
    grown: NDArray[np.float64],
    stay_token: NDArray[np.float64],
) -> None:
    """Where a prefix grows into one that is in the beam already, move its probability there (in place)."""
    row_of = {node: row for row, node in enumerate(beam.nodes)}
    column_of = {token: column for column, token in enumerate(tokens.tolist())}
    for child, node in enumerate(beam.nodes):
        row = row_of.get(prefixes.parents[node])
        column = column_of.get(prefixes.tokens[node])
        if row is not None and column is not None:
            stay_token[child] = np.logaddexp(stay_token[child], grown[row, column])
            grown[row, column] = -np.inf


def _best_path(emissions: NDArray[np.float64], states: NDArray[np.int64]) -> NDArray[np.int64]:
    """Viterbi over the CTC lattice: (T, S) emissions -> (T,) states, each step moving on by 0, 1 or 2."""
    num_frames, num_states = emissions.shape
    if num_frames == 0:
        return np.zeros(0, dtype=np.int64)
    may_skip = np.zeros(num_states, dtype=bool)  # over a blank between two different tokens
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(num_states, -np.inf)
    scores[:2] = emissions[0, :2]
    steps = np.zeros((num_frames, num_states), dtype=np.int8)
    options = np.full((3, num_states), -np.inf)
    for frame in range(1, num_frames):
        options[0] = scores
        options[1, 1:] = scores[:-1]
        options[2, 2:] = np.where(may_skip[2:], scores[:-2], -np.inf)
        steps[frame] = options.argmax(axis=0)
        scores = options.max(axis=0) + emissions[frame]
    path = np.zeros(num_frames, dtype=np.int64)
    path[-1] = num_states - 1 if scores[-1] >= scores[-2] else num_states - 2
    if scores[path[-1]] == -np.inf:
        return np.zeros(num_frames, dtype=np.int64)  # nothing fits: no frame at any token
    for frame in range(num_frames - 1, 0, -1):
        path[frame - 1] = path[frame] - steps[frame, path[frame]]
    return path


def _checked(log_probs: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(log_probs, dtype=np.float64)
    if table.ndim != 2:
        raise ModelError(f"expected log-probabilities of shape (frames, tokens); received {table.shape}")
    if not np.isfinite(table.max(axis=1)).all():
        raise ModelError(
            "expected log-probabilities; received frames of NaN or infinity",
            "Decode in fp32 or bf16 instead of fp16, or look for a broken checkpoint.",
        )
    return table


def _hypothesis(
    table: NDArray[np.float64],
    ids: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    score: float,
) -> Hypothesis:
    spans = zip(ids, starts, ends, strict=True)
    peaks = [float(np.exp(table[start:end, token].max())) for token, start, end in spans]
    return Hypothesis(
        tuple(ids.tolist()),
        tuple(starts.tolist()),
        tuple(ends.tolist()),
        tuple(min(1.0, peak) for peak in peaks),
        score,
    )
