"""What the memory of a training step depends on: the model, how it is trained, what its labels are like."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "adafactor"]
Attention = Literal["flash", "efficient", "math", "eager"]


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Low-rank adapters, as `peft.LoraConfig` takes them."""

    rank: int
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: float = 0.05
    saved: tuple[str, ...] = ()  # modules that are trained whole besides, such as a CTC head


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as another process rebuilds it on the meta device, without weights.

    `config` is what `PreTrainedConfig.to_dict` gives.
    """

    model_class: str  # "module:qualified.name"
    config_class: str
    config: dict[str, Any]
    name: str = ""  # for people
    frozen: tuple[str, ...] = ()  # modules or parameters that are not trained
    lora: LoraSpec | None = None  # everything but the adapters is frozen
    quantized: bool = False  # linear layers held in 4 bits (QLoRA)


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How an optimizer step is taken."""

    device: Literal["cuda", "cpu"] = "cuda"
    precision: Precision = "fp32"  # autocast over fp32 weights
    gradient_checkpointing: bool = False
    front_end_by_clip: bool = False  # a frozen convolutional front end runs one clip at a time
    accumulates: bool = False  # several micro-batches a step: gradients live through the next forward
    optimizer: Optimizer = "adamw_torch_fused"
    attention: Attention = "efficient"
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """A question to the memory planner. It can be written as JSON and read back equal."""

    model: ModelSpec
    settings: StepSettings = StepSettings()
    teacher: ModelSpec | None = None  # of a distillation
    labels_per_second: float = 15.0  # target tokens a second of speech
    activity: Literal["train", "evaluate"] = "train"  # evaluation decodes freely (`generate` where there is one)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MemoryRequest:
        """The inverse of `to_json`."""
        teacher = values["teacher"]
        return cls(
            **values
            | {
                "model": _spec(values["model"]),
                "teacher": _spec(teacher) if teacher else None,
                "settings": StepSettings(**values["settings"]),
            }
        )


def _spec(values: dict[str, Any]) -> ModelSpec:
    lora = values["lora"]
    return ModelSpec(
        **values
        | {
            "frozen": tuple(values["frozen"]),
            "lora": LoraSpec(**lora | {key: tuple(lora[key]) for key in ("targets", "saved")}) if lora else None,
        }
    )
