"""The base of a configuration's sections, and those that stand on their own."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: unknown keys are mistakes, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PretrainConfig(Section):
    """The objective of wav2vec 2.0; names and defaults are those of transformers' `Wav2Vec2Config` and its example.

    A pretrained model with a codebook keeps that one's sizes.
    """

    mask_time_prob: float = Field(default=0.65, gt=0, lt=1)  # share of encoder frames masked, were no spans to overlap
    mask_time_length: int = Field(default=10, ge=2)  # encoder frames of a span: 20 ms each (wav2vec2), 40 ms (ours)
    num_negatives: int = Field(default=100, ge=1, le=1000)  # other masked frames of the clip, for each masked frame
    num_codevector_groups: int = Field(default=2, ge=1, le=16)  # codebooks
    num_codevectors_per_group: int = Field(default=320, ge=2, le=10_000)  # codes in each
    codevector_dim: int = Field(default=256, ge=2)  # width of the codes of all groups, a multiple of their number
    proj_codevector_dim: int = Field(default=256, ge=2)  # width in which codes and predictions are compared
    contrastive_logits_temperature: float = Field(default=0.1, gt=0)
    diversity_loss_weight: float = Field(default=0.1, ge=0)
    max_gumbel_temperature: float = Field(default=2.0, gt=0)  # of the choice of codes, at the first step
    min_gumbel_temperature: float = Field(default=0.5, gt=0)  # after 70 % of the steps
