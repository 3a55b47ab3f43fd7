"""The objective of wav2vec 2.0 (Baevski et al. 2020): of a masked frame, tell its own quantized latent from others'.

All of it is taken clip by clip, the diversity of the codebook too: what is drawn for a clip depends on seed, step and
clip alone, so losses do not depend on which clips share a batch, a micro-batch or a rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer
from transformers.utils import ModelOutput

from myna.models.masking import draw_time_mask
from myna.models.subsampling import frame_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PretrainedConfig

SMALLEST = 1e-20  # what keeps logarithms of chance finite
LEAST_SHARE = 1e-7  # of a code, below which its logarithm is held: at 0 it has no slope
LEAST_MASKED = 2  # frames of a clip: alone, one has nothing to be told from


class Masking(NamedTuple):
    """What is drawn for a batch: of each clip M frames at most, and for each of them K others of the same clip."""

    positions: Tensor  # (B, M) int64, masked frames in their order; T, the padded length, beyond a clip's own
    counts: Tensor  # (B,) int64, masked frames of each clip
    negatives: Tensor  # (B, M, K) int64, places among the clip's masked frames, never a frame's own
    noise: Tensor | None  # (B, M, G, V) Gumbel noise on the choice of codes; None where the likeliest is taken


def draw_masking(
    generators: Sequence[np.random.Generator],
    lengths: Sequence[int],
    num_frames: int,
    config: PretrainedConfig,
    *,
    noisy: bool,
) -> Masking:
    """Mask, negatives and noise of a batch, on the CPU.

    Args:
        generators: B, one for each clip.
        lengths: B, real frames.
        num_frames: T, of the padded batch.
        config: of the model; the names are those of transformers' `Wav2Vec2Config`.
        noisy: draw noise as well, for training.
    """
    masked = [masked_frames(rng, length, config) for rng, length in zip(generators, lengths, strict=True)]
    most = max(1, *(len(frames) for frames in masked))
    codes = config.num_codevector_groups, config.num_codevectors_per_group
    positions = np.full((len(masked), most), num_frames)
    negatives = np.zeros((len(masked), most, config.num_negatives), dtype=np.int64)
    noise = np.zeros((len(masked), most, *codes), dtype=np.float32) if noisy else None
    for row, (rng, frames) in enumerate(zip(generators, masked, strict=True)):
        count = len(frames)
        positions[row, :count] = frames
        if count:
            negatives[row, :count] = draw_negatives(rng, count, config.num_negatives)
        if noise is not None:  # the logarithm of an exponential draw is Gumbel's
            draws = rng.standard_exponential((count, *codes), dtype=np.float32)
            noise[row, :count] = -np.log(np.maximum(draws, SMALLEST))
    return Masking(
        torch.from_numpy(positions),
        torch.tensor([len(frames) for frames in masked]),
        torch.from_numpy(negatives),
        None if noise is None else torch.from_numpy(noise),
    )


def masked_frames(rng: np.random.Generator, length: int, config: PretrainedConfig) -> NDArray[np.int64]:
    """The masked frames of a clip of `length` frames, in order: one span at least, none of a clip that is shorter.

    The first that a generator draws.
    """
    share, span = config.mask_time_prob, config.mask_time_length
    frames = np.flatnonzero(draw_time_mask([length], length, share, span, rng, min_spans=1)[0])
    return frames if len(frames) >= LEAST_MASKED else frames[:0]


def draw_negatives(rng: np.random.Generator, count: int, num_negatives: int) -> NDArray[np.int64]:
    """For each of `count` masked frames K others of them, (count, K): uniform, with replacement, never itself."""
    drawn = rng.integers(0, count - 1, (count, num_negatives))
    return drawn + (drawn >= np.arange(count)[:, None])


class GumbelQuantizer(Wav2Vec2GumbelVectorQuantizer):  # type: ignore[misc]
    """The product quantizer of transformers, with its weights, whose noise is given and which tells what it chose."""

    def forward(self, latents: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Choose a code in each of G groups.

        Args:
            latents: (B, M, features).
            noise: (B, M, G, V), or None for the likeliest codes.

        Returns:
            Code vectors (B, M, codevector_dim); codes (B, M, G); and how likely each was, (B, M, G, V), or with no
            noise, whether it was chosen.
        """
        logits = self.weight_proj(latents).unflatten(-1, (self.num_groups, self.num_vars)).float()  # (B, M, G, V)
        noisy = logits if noise is None else logits + noise
        codes = noisy.argmax(dim=-1)  # (B, M, G)
        chosen = likely = F.one_hot(codes, self.num_vars).to(logits.dtype)  # (B, M, G, V)
        if noise is not None:  # forwards the choice, backwards its softened version (Jang et al. 2017)
            soft = (noisy / self.temperature).softmax(dim=-1)
            chosen, likely = chosen + soft - soft.detach(), logits.softmax(dim=-1)
        books = self.codevectors.view(self.num_groups, self.num_vars, -1)  # (G, V, codevector_dim / G)
        vectors = torch.einsum("bmgv,gvd->bmgd", chosen, books.float()).flatten(2)  # (B, M, codevector_dim)
        return vectors, codes, likely


@dataclass
class MaskedOutput(ModelOutput):  # type: ignore[misc]
    """What came of a batch of masked clips."""

    losses: Tensor | None = None  # (B,) float32, summed over each clip's masked frames
    right: Tensor | None = None  # (B, M) bool, told from all its negatives
    codes: Tensor | None = None  # (B, M, G) int64, chosen for each masked frame


def frames_at(sequence: Tensor, positions: Tensor) -> Tensor:
    """The frames (B, M, D) of a sequence (B, T, D) at positions (B, M); any frame for a position of T."""
    index = positions.clamp(max=sequence.shape[1] - 1)[:, :, None].expand(-1, -1, sequence.shape[2])
    return sequence.gather(1, index)


def mask_of(positions: Tensor, num_frames: int) -> Tensor:
    """(B, num_frames) bool, True at the positions (B, M) below `num_frames`."""
    mask = torch.zeros(len(positions), num_frames + 1, dtype=torch.bool, device=positions.device)
    return mask.scatter(1, positions, True)[:, :num_frames]


def contrast(model: Any, context: Tensor, latents: Tensor, masking: Masking) -> MaskedOutput:
    """Losses of a batch: contrastive, plus the weighted lack of diversity.

    Args:
        model: with `quantizer`, `project_hid`, `project_q` and a configuration, as `Wav2Vec2ForPreTraining` has them.
        context: (B, T, width), of the encoder that heard the masked clips.
        latents: (B, T, features), of the front end, unmasked.
        masking: what was drawn.
    """
    config, positions, counts = model.config, masking.positions, masking.counts
    real = frame_mask(counts, positions.shape[1])  # (B, M)
    vectors, codes, likely = model.quantizer(frames_at(latents, positions), masking.noise)
    targets = F.normalize(model.project_q(vectors.to(model.project_q.weight.dtype)).float(), dim=-1)
    predicted = F.normalize(model.project_hid(frames_at(context, positions)).float(), dim=-1)  # (B, M, proj)
    similarity = predicted @ targets.transpose(1, 2) / config.contrastive_logits_temperature  # (B, M, M)
    own = similarity.diagonal(dim1=1, dim2=2)  # (B, M)
    alike = (codes[:, :, None] == codes[:, None]).all(dim=-1)  # (B, M, M): not to be told apart, so no negatives
    others = similarity.masked_fill(alike, -torch.inf).gather(2, masking.negatives)  # (B, M, K)
    frame_losses = torch.cat([own[:, :, None], others], dim=2).logsumexp(dim=2) - own  # (B, M)
    contrastive = frame_losses.where(real, 0).sum(dim=1)  # (B,)
    lack = (1 - perplexity(likely, real) / likely[0, 0].numel()) * counts  # (B,)
    hardest = others.amax(dim=2)
    return MaskedOutput(
        losses=contrastive + config.diversity_loss_weight * lack,
        right=(own > hardest) & hardest.isfinite() & real,  # nothing to be told from is no merit
        codes=codes,
    )


def perplexity(likely: Tensor, real: Tensor) -> Tensor:
    """Perplexities (B,) of each clip's codes, summed over groups: from G, one code of each, to G * V, all alike.

    Args:
        likely: (B, M, G, V), how likely each code is at each masked frame.
        real: (B, M).
    """
    shares = (likely * real[:, :, None, None]).sum(dim=1) / real.sum(dim=1).clamp(min=1)[:, None, None]  # (B, G, V)
    entropies = -torch.xlogy(shares, shares.clamp(min=LEAST_SHARE)).sum(dim=-1)  # (B, G)
    return entropies.exp().sum(dim=-1)


@dataclass(slots=True)
class MaskedTally:
    """What masked frames came to, added up over batches."""

    masked: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    right: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    chosen: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))  # (G, V), how often each code

    def add(self, output: MaskedOutput, counts: Tensor, num_codes: int) -> None:
        """Count a batch's frames; `counts` (B,) of each clip, 0 leaves one out."""
        assert output.codes is not None and output.right is not None
        real = frame_mask(counts, output.codes.shape[1])  # (B, M)
        chosen = (F.one_hot(output.codes, num_codes) * real[:, :, None, None]).sum(dim=(0, 1))  # (G, V)
        device = chosen.device
        self.masked = self.masked.to(device) + real.sum()
        self.right = self.right.to(device) + (output.right & real).sum()
        self.chosen = self.chosen.to(device) + chosen

    def __add__(self, other: MaskedTally) -> MaskedTally:
        sums = (getattr(self, item.name).cpu() + getattr(other, item.name).cpu() for item in fields(self))
        return MaskedTally(*sums)

    def figures(self) -> dict[str, float]:
        """Accuracy over masked frames, and the perplexity of the codes chosen, summed over groups."""
        masked = max(1, int(self.masked))
        shares = self.chosen.double() / masked  # (G, V)
        entropies = -torch.xlogy(shares, shares).sum(dim=-1)
        return {
            "masked_accuracy": round(int(self.right) / masked, 6),
            "codebook_perplexity": round(float(entropies.exp().sum()), 4),
        }


def add_heads(model: nn.Module, config: PretrainedConfig, width: int) -> None:
    """Quantizer and projections, under the names that transformers gives them.

    Args:
        model: gets them.
        config: with their sizes.
        width: of the encoder.
    """
    model.quantizer = GumbelQuantizer(config)
    model.project_hid = nn.Linear(width, config.proj_codevector_dim)
    model.project_q = nn.Linear(config.codevector_dim, config.proj_codevector_dim)
