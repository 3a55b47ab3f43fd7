"""Networks that learn from speech without transcripts, by the objective of wav2vec 2.0."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Wav2Vec2Config
from transformers import Wav2Vec2ForPreTraining as PublishedForPreTraining
from transformers import initialization as init

from myna.errors import ModelError
from myna.models.conformer import ConformerConfig, ConformerLayer
from myna.models.contrastive import GumbelQuantizer, MaskedOutput, Masking, add_heads, contrast, mask_of
from myna.models.ctc_model import CTCConfig, EncoderModel
from myna.models.subsampling import subsampled_length
from myna.models.transformer import TransformerConfig, TransformerLayer
from myna.models.weights import load_weights, model_errors, quiet

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from myna.sections import PretrainConfig

CODEBOOK_SIZES = ("num_codevector_groups", "num_codevectors_per_group", "codevector_dim", "proj_codevector_dim")
# Ends of the names of what serves the objective alone, and of wav2vec 2.0's own mask.
HEADS = (
    *(f"quantizer.{name}" for name in ("codevectors", "weight_proj.weight", "weight_proj.bias")),
    *(f"{name}.{kind}" for name in ("project_hid", "project_q", "latent_norm") for kind in ("weight", "bias")),
    "mask_embedding",
    "masked_spec_embed",
)


class PretrainingEncoder(EncoderModel):
    """One of our encoders and what it is pre-trained with; latents are the frames of its subsampling.

    The weights that stay have the names that they have in the CTC model.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: CTCConfig) -> None:
        super().__init__(config)
        # The quantizer's input, as transformers' configuration has it.
        sizes = copy.copy(config)
        sizes.conv_dim = [config.d_model]
        self.latent_norm = nn.LayerNorm(config.d_model)
        self.mask_embedding = nn.Parameter(torch.zeros(config.d_model))
        add_heads(self, sizes, config.d_model)
        self.post_init()

    def num_frames(self, num_features: int) -> int:
        """Latents of so many feature frames."""
        return subsampled_length(num_features)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GumbelQuantizer):  # as transformers does
            init.normal_(module.weight_proj.weight)
            init.uniform_(module.codevectors)
        elif isinstance(module, PretrainingEncoder):
            init.uniform_(module.mask_embedding)

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        positions: Tensor,
        counts: Tensor,
        negatives: Tensor,
        noise: Tensor | None = None,
    ) -> MaskedOutput:
        """Score a batch.

        Args:
            features: (B, T, n_mels), anything beyond each length.
            feature_lengths: (B,) frames.
            positions: and what follows, as in `Masking`.
        """
        latents = self.subsampling(features)  # (B, T', d_model)
        mask = mask_of(positions, latents.shape[1])[:, :, None]
        context = self.encode(torch.where(mask, self.mask_embedding, latents), subsampled_length(feature_lengths))
        return contrast(self, context, self.latent_norm(latents), Masking(positions, counts, negatives, noise))


class ConformerForPreTraining(PretrainingEncoder):
    """A Conformer that is pre-trained."""

    config_class = ConformerConfig
    layer_class = ConformerLayer
    _no_split_modules = ["ConformerLayer"]  # noqa: RUF012


class TransformerForPreTraining(PretrainingEncoder):
    """A Transformer that is pre-trained."""

    config_class = TransformerConfig
    layer_class = TransformerLayer
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012


class Wav2Vec2ForPreTraining(PublishedForPreTraining):  # type: ignore[misc]
    """wav2vec 2.0 itself; weights and their names are transformers'."""

    accepts_loss_kwargs = False

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.quantizer = GumbelQuantizer(config)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        positions: Tensor,
        counts: Tensor,
        negatives: Tensor,
        noise: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> MaskedOutput:
        """Score a batch: samples (B, N) with their padding mask, and what follows as in `Masking`."""
        heard = self.wav2vec2(input_values, attention_mask, mask_of(positions, self.num_frames(input_values.shape[1])))
        latents = self.dropout_features(heard.extract_features)  # (B, T, conv_dim)
        return contrast(self, heard.last_hidden_state, latents, Masking(positions, counts, negatives, noise))

    def num_frames(self, num_samples: int) -> int:
        """Latents of so many samples."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples


MODELS: dict[type[PretrainedConfig], type[PreTrainedModel]] = {
    ConformerConfig: ConformerForPreTraining,
    TransformerConfig: TransformerForPreTraining,
    Wav2Vec2Config: Wav2Vec2ForPreTraining,
}


def prepare_config(config: PretrainedConfig, settings: PretrainConfig) -> type[PreTrainedModel]:
    """Put the objective's settings into a model's configuration, and give the class that learns by them.

    A codebook that the model has already keeps its sizes.

    Raises:
        ModelError: no such class.
    """
    if type(config) not in MODELS:
        known = ", ".join(kind.model_type for kind in MODELS)
        raise ModelError(
            f"expected a model_type that can be pre-trained: {known}; received {config.model_type}",
            "HuBERT, WavLM and their like were trained by objectives of their own.",
        )
    values = settings.model_dump(exclude={"max_gumbel_temperature", "min_gumbel_temperature"})
    for name, value in values.items():
        if not (name in CODEBOOK_SIZES and hasattr(config, name)):
            setattr(config, name, value)
    config.apply_spec_augment, config.mask_feature_prob, config.layerdrop = True, 0.0, 0.0  # of wav2vec 2.0
    return MODELS[type(config)]


def load_to_pretrain(folder: Path, settings: PretrainConfig) -> PreTrainedModel:
    """A model to go on pre-training, from an encoder that was pre-trained or fine-tuned before.

    Raises:
        ModelError: the folder holds no model that can be pre-trained.
    """
    with model_errors(folder, "encoder"), quiet():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model: PreTrainedModel = load_weights(prepare_config(config, settings), folder, may_miss=HEADS, config=config)
    return model
