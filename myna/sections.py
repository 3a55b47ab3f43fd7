"""What the configuration's sections are made of, and the sections of training methods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]  # the planner's choice


class Section(BaseModel):
    """Base of all sections: unknown keys are mistakes, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterConfig(Section):
    """Low-rank adapters to train in place of a pretrained model's weights."""

    kind: Literal["none", "lora", "qlora"] = "none"  # qlora holds the weights in 4 bits (nf4)
    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32, gt=0)  # adapters count alpha / rank times
    rank_stabilized: bool = False  # alpha / sqrt(rank) times instead
    dropout: float = Field(default=0.05, ge=0, lt=1)
    # Linear layers, by the ends of their names; `auto`: the attention's; `all`: those and the feed-forward layers
    target_modules: Literal["auto", "all"] | list[str] = "auto"
    modules_to_save: list[str] = Field(default_factory=list)  # trained whole and saved besides, as a CTC head always is
    double_quantization: bool = True  # qlora: the scales of the 4-bit blocks are quantized as well
    compute_dtype: Literal["fp32", "bf16", "fp16"] | Auto = "auto"  # qlora: of its products; `auto`: training's


class DistillationConfig(Section):
    """Learning from another model's probabilities besides the labels; without a teacher none of it counts.

    A row's loss is `(1 - alpha) * loss of its labels + alpha * temperature^2 * KL(teacher || student)`.
    """

    teacher: str = ""  # a run, a checkpoint, a `from_pretrained` folder or a hub name; `self`: model.pretrained itself
    alpha: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, ge=0.1, le=100)  # softens both: softmax(logits / temperature)
    # GiB of main memory for what the teacher said, where augmentation does not change what it hears; 0 asks every time
    reuse_gb: float = Field(default=2.0, ge=0)


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


class Milestone(Section):
    """An error rate on the validation split to reach: WER or CER in percent, one of the two."""

    wer: Annotated[float, Field(gt=0, lt=100)] | None = None
    cer: Annotated[float, Field(gt=0, lt=100)] | None = None
    budget_hours: Annotated[float, Field(gt=0)] | None = None  # of training; without one, those of the run

    @property
    def metric(self) -> Literal["wer", "cer"]:
        """Which of the two it is about."""
        return "wer" if self.wer is not None else "cer"

    @property
    def percent(self) -> float:
        """The rate to reach."""
        return (self.wer if self.wer is not None else self.cer) or 0.0

    def __str__(self) -> str:
        """As people read it."""
        budget = f" within {self.budget_hours:g} h" if self.budget_hours is not None else ""
        return f"{self.metric.upper()} {self.percent:g} %{budget}"


class TtqConfig(Section):
    """Time to quality: what a run is meant to reach, and when."""

    milestones: list[Milestone] = Field(default_factory=list)
