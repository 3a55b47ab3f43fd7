"""Learning from a teacher's probabilities besides the labels (Hinton et al. 2015).

A row's loss is `(1 - alpha) * loss of its labels + alpha * T^2 * sum of KL(teacher || student)`. The sum is over the
row's scored positions, and the temperature T softens both distributions: softmax(logits / T).

For CTC the positions are all of the clip's frames. A CTC teacher says most tokens at single frames, and a student with
another idea of when is drawn both ways (Takashima et al. 2018); to leave out frames of blanks does not always help
(Hilmes et al. 2025). A student that begins with its teacher has no such idea yet, or the teacher's own with its layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from myna.errors import ModelError
from myna.models.ctc import CTCProcessor
from myna.models.parakeet_processor import ParakeetProcessor
from myna.models.wav2vec2_processor import Wav2Vec2Processor
from myna.models.whisper_processor import WhisperProcessor

if TYPE_CHECKING:
    from myna.feed.batches import Processor

TOP_TOKENS = 256  # told apart; a larger vocabulary's others count as one
LEAST_LOG_PROB = -1e4  # half precision holds it, and its probability is 0


class Taught(NamedTuple):
    """What a teacher says at each position, already softened.

    Attributes:
        log_probs: (..., K) float16, of all tokens, or of the K - 1 likeliest and of all others together.
        tokens: (..., K - 1) int32, which they are; None where every token has its column.
    """

    log_probs: Tensor
    tokens: Tensor | None


def taught_by(logits: Tensor, temperature: float, top_tokens: int = TOP_TOKENS) -> Taught:
    """A teacher's distributions, rounded to half precision: what is kept and what is not are the same.

    Args:
        logits: (..., V).
        temperature: T.
        top_tokens: of a vocabulary larger than this, so many of the likeliest are told apart.
    """
    log_probs = (logits.float() / temperature).log_softmax(dim=-1)
    if log_probs.shape[-1] <= top_tokens:
        return Taught(log_probs.clamp(min=LEAST_LOG_PROB).half(), None)
    tokens = log_probs.topk(top_tokens, dim=-1).indices
    return Taught(_grouped(log_probs, tokens).clamp(min=LEAST_LOG_PROB).half(), tokens.int())


def divergence(logits: Tensor, taught: Taught, temperature: float) -> Tensor:
    """KL(teacher || student) in nats at each position, (...) float32; of tokens that count as one, theirs together.

    Args:
        logits: (..., V), the student's.
        taught: by `taught_by`, with the same temperature.
        temperature: T.
    """
    target = taught.log_probs.float().log_softmax(dim=-1)  # rounding has left their sum a little off
    log_probs = (logits.float() / temperature).log_softmax(dim=-1)
    if taught.tokens is not None:
        log_probs = _grouped(log_probs, taught.tokens.long())
    return (target.exp() * (target - log_probs)).sum(dim=-1)


def _grouped(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """(..., V) -> (..., K): those of the tokens (..., K - 1), and of all others together."""
    others = log_probs.scatter(-1, tokens, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, tokens), others], dim=-1)


def hold_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Store linear layers as autocast to `dtype` would use them: nothing changes but the memory they take."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)


def refuse_unlike(student: Processor, teacher: Processor) -> None:
    """See that a teacher understands the student's batches and speaks its tokens.

    Raises:
        ModelError: with every difference.
    """
    if type(student) is not type(teacher):
        names = [type(processor).__name__.removesuffix("Processor") for processor in (student, teacher)]
        problem = f"expected one that hears and speaks as {names[0]} does; received {names[1]}"
    else:
        ours, theirs = _traits(student), _traits(teacher)
        wrong = [
            f"{name} ({theirs[name][1]}, not {ours[name][1]})" for name in ours if ours[name][0] != theirs[name][0]
        ]
        if not wrong:
            return
        problem = f"expected one that hears and speaks as the student does; it differs in {', '.join(wrong)}"
    raise ModelError(
        f"distillation.teacher: {problem}",
        "A student with the features and tokens of its teacher can be made of it: model.pretrained with "
        "model.keep_encoder_layers and model.keep_decoder_layers.",
    )


def _traits(processor: Processor) -> dict[str, tuple[object, str]]:
    """What teacher and student must share, and how to show it."""
    match processor:
        case WhisperProcessor():
            vocabulary = processor.tokenizer.get_vocab()
            return {
                "mel bins": (processor.log_mel.n_mels, str(processor.log_mel.n_mels)),
                "vocabulary": (vocabulary, f"{len(vocabulary)} tokens"),
                "prompt": (processor.prompt_length, f"{processor.prompt_length} tokens"),
            }
        case CTCProcessor():
            pieces = processor.tokenizer.pieces
            return {
                "features": (processor.log_mel, str(processor.log_mel)),
                "vocabulary": (list(pieces), _shown(pieces)),
            }
        case ParakeetProcessor():
            pieces = processor.tokenizer.pieces
            return {
                "features": (processor.log_mel, str(processor.log_mel)),
                "frames": (processor.subsampling_factor, f"one of {processor.subsampling_factor}"),
                "vocabulary": (list(pieces), _shown(pieces)),
            }
        case Wav2Vec2Processor():
            pieces = processor.tokenizer.pieces
            return {
                "sample rate": (processor.sample_rate_hz, f"{processor.sample_rate_hz} Hz"),
                "normalised samples": (processor.normalize, str(processor.normalize)),
                "frames": (processor.convolutions, str(processor.convolutions)),
                "vocabulary": (list(pieces), _shown(pieces)),
            }
    raise ModelError(f"distillation.teacher: expected a family that can be distilled; received {processor}")


def _shown(pieces: list[str] | tuple[str, ...]) -> str:
    return f"{len(pieces)} tokens, {' '.join(pieces[2:8])} ..."
