"""`Transcriber`: from audio of any length to a Transcript."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import soxr

from myna.audio.decode import decode
from myna.errors import AudioError
from myna.samples import AudioClip, Batch, Refusal, RefusalReason, Transcript
from myna.transcribe.merge import merged
from myna.transcribe.windows import Window, windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from myna.models.recognizer import DecodeOptions, Recognizer

    Source = str | Path | bytes | AudioClip

WINDOW_SECONDS = 30.0  # what Whisper takes at once, and the longest clip of the default training limits
BATCH_SECONDS = 120.0  # padded audio in one forward pass
BLOCK_SECONDS = 600.0  # audio read ahead, so that windows of similar length can share a batch
MAX_SECONDS = 4 * 3_600.0  # 0.9 GB of samples at 16 kHz


class Transcriber:
    """Turns audio into text.

    Args:
        model: a run, checkpoint, local model folder or hub name, or a loaded recogniser.
        language: ISO 639 code for models that are told one; "" leaves it to the model.
        beam_width: 1 is greedy.
        timestamps: words with times and confidences; without them Whisper is several times faster.
        batch_seconds: padded audio per forward pass; less needs less memory.
        window_seconds: longer audio is cut into windows of at most this, at pauses or with an overlap.
        max_seconds: longest recording accepted.
        device: such as "cuda" or "cpu"; "" takes the GPU where there is one.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path | Recognizer,
        *,
        language: str = "",
        beam_width: int = 1,
        timestamps: bool = True,
        batch_seconds: float = BATCH_SECONDS,
        window_seconds: float = WINDOW_SECONDS,
        max_seconds: float = MAX_SECONDS,
        device: str = "",
    ) -> None:
        import torch

        from myna.models.memory_limit import MemoryLimit
        from myna.models.recognizer import DecodeOptions

        self.recognizer = _loaded(model) if isinstance(model, str | Path) else model
        self.recognizer.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._options = DecodeOptions(language=language, beam_width=beam_width)
        self._timestamps = timestamps
        self._batch_seconds = batch_seconds
        self._window_seconds = window_seconds
        self._max_seconds = max_seconds
        self._limit = MemoryLimit()

    def transcribe(self, source: Source) -> Transcript:
        """The text of one recording.

        Args:
            source: a path, a whole file's bytes, or decoded audio.

        Raises:
            AudioError: the recording cannot be used; it says why.
        """
        return self._recognize([self._read(source)])[0]

    def transcribe_batch(self, sources: Iterable[Source]) -> list[Transcript | Refusal]:
        """All of `transcribe_each` at once: one entry per source, in their order."""
        return list(self.transcribe_each(sources))

    def transcribe_each(self, sources: Iterable[Source]) -> Iterator[Transcript | Refusal]:
        """The text of many recordings, in their order, as soon as it is there.

        Windows of similar length share forward passes. A recording that cannot be used takes its place in the
        order as a Refusal and does not end the rest.
        """
        block: list[AudioClip | Refusal] = []
        waiting_seconds = 0.0
        for source in sources:
            read = self._read_or_refuse(source)
            block.append(read)
            waiting_seconds += read.duration_seconds if isinstance(read, AudioClip) else 0.0
            if waiting_seconds >= BLOCK_SECONDS:
                yield from self._recognize_block(block)
                block, waiting_seconds = [], 0.0
        yield from self._recognize_block(block)

    def _recognize_block(self, block: list[AudioClip | Refusal]) -> Iterator[Transcript | Refusal]:
        transcripts = iter(self._recognize([read for read in block if isinstance(read, AudioClip)]))
        for read in block:
            yield read if isinstance(read, Refusal) else next(transcripts)

    def _read_or_refuse(self, source: Source) -> AudioClip | Refusal:
        try:
            return self._read(source)
        except AudioError as error:
            name = str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"
            return Refusal(name, "", error.reason, error.detail)

    def _read(self, source: Source) -> AudioClip:
        rate = self.recognizer.processor.sample_rate_hz
        if not isinstance(source, AudioClip):
            return decode(source, sample_rate_hz=rate, max_seconds=self._max_seconds)
        if len(source.samples) == 0:
            raise AudioError(RefusalReason.EMPTY_AUDIO, "expected samples; received none")
        if source.sample_rate_hz == rate:
            return source
        return AudioClip(soxr.resample(source.samples, source.sample_rate_hz, rate), rate)

    def _recognize(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Cut into windows, decode these in batches of similar length, and join again."""
        of_clip = [[_Piece(window) for window in windows(clip, self._window_seconds)] for clip in clips]
        of_times: dict[bool, list[_Piece]] = {False: [], True: []}
        for piece in chain.from_iterable(of_clip):
            # Overlaps are merged by word times, whether the caller wants these or not.
            of_times[self._timestamps or piece.window.overlaps].append(piece)
        for timestamps, pieces in of_times.items():
            options = replace(self._options, timestamps=timestamps)
            for group in self._batches(pieces):
                found = self._decode([piece.window.clip for piece in group], options)
                for piece, transcript in zip(group, found, strict=True):
                    piece.transcript = transcript
        return [self._merged(pieces, clip) for pieces, clip in zip(of_clip, clips, strict=True)]

    def _merged(self, pieces: list[_Piece], clip: AudioClip) -> Transcript:
        parts = [piece.window for piece in pieces], [piece.transcript for piece in pieces]
        return merged(*parts, clip.duration_seconds, timestamps=self._timestamps)

    def _batches(self, pieces: list[_Piece]) -> Iterator[list[_Piece]]:
        padded_seconds = self.recognizer.processor.padded_seconds
        longest_first = sorted(pieces, key=lambda piece: -piece.window.clip.duration_seconds)
        start = 0
        while start < len(longest_first):
            longest_seconds = padded_seconds(longest_first[start].window.clip.duration_seconds)
            capacity = max(1, int(self._batch_seconds / longest_seconds))
            yield longest_first[start : start + capacity]
            start += capacity

    def _decode(self, clips: Sequence[AudioClip], options: DecodeOptions) -> list[Transcript]:
        from myna.models.memory_limit import each_piece

        batch = _batch(clips, self.recognizer)
        pieces = each_piece(batch, lambda rows: self.recognizer.decode(rows, options), self._limit)
        return [transcript for _, transcripts in pieces for transcript in transcripts]


def _loaded(model: str | Path) -> Recognizer:
    from myna.models.build import load_recognizer

    return load_recognizer(model)


@dataclass(slots=True)
class _Piece:
    window: Window
    transcript: Transcript = field(default_factory=lambda: Transcript(""))


def _batch(clips: Sequence[AudioClip], recognizer: Recognizer) -> Batch:
    """A batch without labels."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    features = [recognizer.processor.features(clip) for clip in clips]  # (T, n_mels) each
    return Batch(
        utterance_ids=tuple(str(index) for index in range(len(clips))),
        features=pad_sequence(features, batch_first=True),  # (B, T, n_mels)
        feature_lengths=torch.tensor([len(rows) for rows in features]),
        labels=torch.zeros((len(clips), 0), dtype=torch.int64),
        label_lengths=torch.zeros(len(clips), dtype=torch.int64),
        weights=torch.ones(len(clips)),
        audio_seconds=sum(clip.duration_seconds for clip in clips),
    )
