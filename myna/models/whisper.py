"""Whisper from transformers as a recogniser: fine-tuning, decoding, words with times."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from myna.feed.batches import LABEL_PADDING
from myna.models.audio_context import WINDOW_FRAMES
from myna.models.ctc_decode import geometric_mean
from myna.models.recognizer import DecodeOptions, Recognizer, decoding
from myna.models.weights import load_weights, quiet
from myna.models.whisper_encoder import continued_with_silence, hear_clips
from myna.models.whisper_processor import WhisperProcessor
from myna.models.whisper_words import group_words, token_starts
from myna.samples import Batch, Transcript, Word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import BitsAndBytesConfig

    from myna.models.audio_context import AudioContext


class WhisperRecognizer(Recognizer):
    """A Whisper model with its processor.

    It takes features of any even length. In full context they are padded with silence to 30 s; in short context, to the
    longest of the batch.

    Args:
        processor: tokenizer, features and context.
        model: the model, in float32.
        metadata: saved in `myna.json`.
    """

    processor: WhisperProcessor

    def __init__(
        self,
        processor: WhisperProcessor,
        model: WhisperForConditionalGeneration,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.processor = processor
        self.model = model
        self.metadata = dict(metadata or {})
        model.accepts_loss_kwargs = False  # the loss is per row: no item counts of the trainer in it
        hear_clips(model)
        model.generation_config.forced_decoder_ids = None  # of old checkpoints; language and task say it now

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        language: str = "",
        metadata: dict[str, str] | None = None,
        quantization: BitsAndBytesConfig | None = None,
        context: AudioContext | None = None,
    ) -> WhisperRecognizer:
        """Load a Whisper folder, weights in float32 whatever they are stored in, or its linear layers in 4 bits.

        Raises:
            ModelError: the folder is no Whisper checkpoint.
        """
        processor = WhisperProcessor.from_pretrained(folder, language, context)
        model = load_weights(WhisperForConditionalGeneration, folder, quantization=quantization)
        return cls(processor, model, metadata)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, U - 1, V) of the token after each label."""
        inputs = batch.labels[:, :-1].masked_fill(batch.labels[:, :-1] < 0, self.processor.end_id)
        features = self._heard(batch).transpose(1, 2)  # (B, n_mels, T)
        logits: Tensor = model(input_features=features, decoder_input_ids=inputs, use_cache=False).logits
        return logits

    def losses_of(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy (B,) in float32, summed over the text and its end; the prompt is given, not learned.

        Decoding always forces the prompt, so scoring it would only dilute the mean.
        """
        targets = self._targets(batch)
        # Over the last dimension: with classes in the middle, torch's sum over 50,000 of them is off by 1e-4.
        by_token = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=LABEL_PADDING, reduction="none"
        )  # (B * (U - 1),)
        return by_token.view_as(targets).sum(dim=1)

    def scored(self, batch: Batch) -> Tensor:
        """Where the text and its end are to be said, (B, U - 1)."""
        return self._targets(batch) >= 0

    def items(self, batch: Batch) -> Tensor:
        """Scored tokens (B,): the text and its end."""
        return self.scored(batch).sum(dim=1).to(batch.weights.dtype)

    def _targets(self, batch: Batch) -> Tensor:
        """What each decoder position must say next, (B, U - 1); LABEL_PADDING where nothing is scored."""
        targets = batch.labels[:, 1:].clone()
        targets[:, : self.processor.prompt_length - 1] = LABEL_PADDING
        return targets

    def decode(self, batch: Batch, options: DecodeOptions) -> list[Transcript]:
        """Greedy, or beam search for beam_width > 1.

        Each row's language is the first of: `options.language`, the processor's, its label's, the one Whisper hears.
        """
        with decoding(self.model), quiet():
            batch = batch.to(self.device)
            features = self._heard(batch)  # (B, T, n_mels)
            encoded = self.model.get_encoder()(features.transpose(1, 2)).last_hidden_state  # (B, T / 2, d_model)
            languages = self._languages(batch, encoded, options.language)
            found = self._generate(encoded, languages, options)
            # Everything from the end token on is special.
            tokens = [[index for index in row if index < self.processor.end_id] for row in found.tolist()]
            confidences, attention = self._listen_again(encoded, languages, tokens, options)
        transcripts = []
        for row, ids in enumerate(tokens):
            words: tuple[Word, ...] = ()
            if attention is not None:
                width = self.processor.prompt_length + len(ids)
                heard = attention[row, :, :width, : _heard_frames(features[row]) // 2]
                starts = token_starts(heard.numpy(), self.processor.prompt_length)
                words = group_words(self.processor.tokenizer, ids, starts, confidences[row], languages[row])
            text = self.processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
            transcripts.append(Transcript(text, geometric_mean(confidences[row]), words, language=languages[row]))
        return transcripts

    def _heard(self, batch: Batch) -> Tensor:
        """Features (B, T, n_mels): T is 3000 in full context, else that of the batch."""
        num_frames = WINDOW_FRAMES if self.processor.context is None else batch.features.shape[1]
        return continued_with_silence(batch.features, batch.feature_lengths, num_frames)

    def _languages(self, batch: Batch, encoded: Tensor, wanted: str) -> list[str]:
        """Language code of each row."""
        processor = self.processor
        num_rows = len(encoded)
        if not processor.language_ids:
            return ["en"] * num_rows
        if wanted or processor.language:
            return [processor.language_code(wanted or processor.language)] * num_rows
        codes = {index: code for code, index in processor.language_ids.items()}
        if batch.labels.shape[1] > 1:
            labelled = [codes.get(index, "") for index in batch.labels[:, 1].tolist()]
            if all(labelled):
                return labelled
        heard = self.model.detect_language(encoder_outputs=BaseModelOutput(encoded))
        return [codes[index] for index in heard.tolist()]

    def _generate(self, encoded: Tensor, languages: list[str], options: DecodeOptions) -> Tensor:
        """Token ids (B, U), without the prompt."""
        spoken: dict[str, Any] = {}
        if self.processor.language_ids:
            spoken = {"language": [f"<|{code}|>" for code in languages], "task": options.task}
        found: Tensor = self.model.generate(
            encoder_outputs=BaseModelOutput(encoded),
            num_beams=options.beam_width,
            max_new_tokens=options.max_new_tokens,
            return_timestamps=False,
            **spoken,
        )
        return found

    def _listen_again(
        self, encoded: Tensor, languages: list[str], tokens: list[list[int]], options: DecodeOptions
    ) -> tuple[list[list[float]], Tensor | None]:
        """One pass over the found text, which costs about as much as one token of it.

        Returns:
            The probability of each token and of the end after it, by row; and, for timestamps, the cross-attention
            (B, heads, S, T / 2) of the heads that follow the speech.
        """
        prompts = [self.processor.prompt(language, options.task) for language in languages]
        num_prompt = self.processor.prompt_length
        width = num_prompt + max(len(row) for row in tokens) + 1
        ids = torch.full((len(tokens), width), self.processor.end_id)
        for row, (prompt, text) in enumerate(zip(prompts, tokens, strict=True)):
            ids[row, : num_prompt + len(text)] = torch.tensor([*prompt, *text])
        ids = ids.to(encoded.device)
        with _readable_attention(self.model) if options.timestamps else contextlib.nullcontext():
            output = self.model(
                encoder_outputs=BaseModelOutput(encoded),
                decoder_input_ids=ids[:, :-1],
                use_cache=False,
                output_attentions=options.timestamps,
            )
        probabilities = output.logits[:, num_prompt - 1 :].float().softmax(dim=-1)  # (B, U + 1, V)
        said = probabilities.gather(2, ids[:, num_prompt:, None])[:, :, 0].cpu()  # (B, U + 1)
        confidences = [row[: len(text) + 1].tolist() for row, text in zip(said, tokens, strict=True)]
        if not options.timestamps:
            return confidences, None
        layers = [layer.float().cpu() for layer in output.cross_attentions]  # each (B, H, S, T / 2)
        return confidences, torch.stack([layers[layer][:, head] for layer, head in self._alignment_heads()], 1)

    def _alignment_heads(self) -> list[tuple[int, int]]:
        """(layer, head) pairs whose attention follows the speech; where a checkpoint names none, the upper half."""
        named = getattr(self.model.generation_config, "alignment_heads", None)
        config = self.model.config
        upper = range(config.decoder_layers // 2, config.decoder_layers)
        return named or [(layer, head) for layer in upper for head in range(config.decoder_attention_heads)]


@contextlib.contextmanager
def _readable_attention(model: WhisperForConditionalGeneration) -> Iterator[None]:
    """Plain attention for a while: fused kernels do not give their weights away."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _heard_frames(features: Tensor) -> int:
    """Frames of (T, n_mels) features up to the last that is not silence, at least two: where words can be."""
    audible = (features > features.min()).any(dim=1).nonzero()
    return max(2, int(audible[-1]) + 1 if len(audible) else 0)
