"""`OptimalConfig`: the values of one run under the keys that are saved, loaded and handed to a trainer."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.errors import PlanError
from myna.files import write_atomically
from myna.plan.render import tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import TrainingArguments

    from myna.plan.training_plan import TrainingPlan

MAX_FILE_BYTES = 100_000


@dataclass
class OptimalConfig:
    """The plan of one run as plain values; `print` shows it as a tree with the reasons.

    Values may be set as attributes (nothing is checked before they are used), or by `override`, which plans again
    around them and refuses what does not fit into memory.
    """

    per_device_train_batch_size: int  # clips of the longest kind
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    effective_batch_size: int  # clips of an optimizer step, all devices together
    gradient_checkpointing: bool
    fp16: bool
    bf16: bool
    dataloader_num_workers: int
    max_audio_duration_seconds: float  # longer clips are left out
    audio_chunk_length_seconds: float  # pieces that longer recordings are cut into for recognition
    use_streaming: bool
    cache_dataset: bool
    num_train_epochs: float
    learning_rate: float
    warmup_steps: int
    eval_steps: int
    save_steps: int
    logging_steps: int
    memory_reserve_gb: float  # 10^9 bytes of the device that are left alone
    max_memory_usage_percent: float
    plan: TrainingPlan | None = field(default=None, repr=False, compare=False)  # None when it was read from a file

    def override(self, **values: Any) -> OptimalConfig:
        """A configuration with these values, everything else chosen anew around them.

        Besides the keys of this class, `optimizer`, `attention` and `front_end_by_clip` may be given. A configuration
        that was read from a file has nothing to plan with: there the values are only checked against one another.

        Raises:
            PlanError: unknown keys, or values that do not go together or into memory, all at once.
        """
        if self.plan is not None:
            return self.plan.override(**values).config
        changed = self.to_json() | values
        if "effective_batch_size" not in values:
            devices = self.effective_batch_size // (self.per_device_train_batch_size * self.gradient_accumulation_steps)
            whole = changed["per_device_train_batch_size"] * changed["gradient_accumulation_steps"]
            changed["effective_batch_size"] = whole * max(1, devices)
        return OptimalConfig.from_json(changed)

    def training_arguments(self, **overrides: Any) -> TrainingArguments:
        """`transformers.TrainingArguments` for any Trainer; give `output_dir` and whatever else you want otherwise.

        Evaluation and checkpoints come every `eval_steps` and `save_steps`: a Trainer without an evaluation set needs
        `eval_strategy="no"`. A model whose forward takes `**kwargs` also needs `model.accepts_loss_kwargs = False`, or
        transformers 5 multiplies its loss by the accumulation.

        Raises:
            PlanError: values that do not go together.
        """
        self.check()
        import torch
        from transformers import TrainingArguments

        names = {argument.name for argument in fields(TrainingArguments)}
        # Two names for one thing: the old one is the only one in transformers 5.17 and deprecated in 5.23.
        checkpointing = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in names)
        overrides = {key.replace("gradient_checkpointing", checkpointing): value for key, value in overrides.items()}
        accelerator = torch.accelerator.is_available()
        values: dict[str, Any] = {
            "output_dir": "runs/run",
            **{key: value for key, value in self.to_json().items() if key in names - {"gradient_checkpointing"}},
            checkpointing: self.gradient_checkpointing,
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "eval_accumulation_steps": 1,  # logits go to the host at once: the plan has no room for a whole split's
            "remove_unused_columns": False,
            "ddp_find_unused_parameters": False,
            "dataloader_pin_memory": accelerator,
            "use_cpu": not accelerator,
        }
        if not accelerator:
            values["fp16"] = False  # half precision without an accelerator does nothing at all
        if self.plan is not None:
            values["optim"] = _OPTIMIZER_NAMES[self.plan.settings.optimizer]
            values["torch_compile"] = self.plan.step_choices["torch_compile"].value
            values["max_grad_norm"] = self.plan.settings.max_grad_norm
        values |= overrides
        if values[checkpointing]:
            values.setdefault(f"{checkpointing}_kwargs", {"use_reentrant": False})
        return TrainingArguments(**values)

    def check(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            PlanError: with every contradiction.
        """
        conflicts = []
        if self.fp16 and self.bf16:
            conflicts.append("fp16, bf16: expected at most one of them; received both")
        whole = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if whole < 1 or self.effective_batch_size < 1 or self.effective_batch_size % whole:
            conflicts.append(
                "effective_batch_size: expected a multiple of per_device_train_batch_size x gradient_accumulation_steps"
                f" = {whole}; received {self.effective_batch_size}"
            )
        if conflicts:
            raise PlanError(conflicts)

    def to_json(self) -> dict[str, Any]:
        """Exactly the saved keys."""
        return {key: getattr(self, key) for key in KEYS}

    @classmethod
    def from_json(cls, values: Any) -> OptimalConfig:
        """Read the saved keys back.

        Raises:
            PlanError: keys that are unknown (with the nearest known one) or missing, values of the wrong type.
        """
        if not isinstance(values, dict):
            raise PlanError([f"expected a JSON object of the plan's keys; received a {type(values).__name__}"])
        conflicts = unknown_keys(values, KEYS) + type_mistakes(values)
        conflicts += [f"{key}: expected a value; it is missing" for key in KEYS if key not in values]
        if conflicts:
            raise PlanError(conflicts)
        config = cls(**values)
        config.check()
        return config

    def save(self, path: str | Path) -> Path:
        """Write the values as JSON, whole or not at all."""
        return write_atomically(path, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> OptimalConfig:
        """Read what `save` wrote.

        Raises:
            PlanError: no such file, or not such a file.
        """
        path = Path(path)
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise PlanError([f"{path}: expected a JSON file of at most {MAX_FILE_BYTES:,} bytes; there is none"])
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise PlanError([f"{path}: expected JSON; received {error}"]) from error

    def __str__(self) -> str:
        return tree(self)


KEYS = tuple(key.name for key in fields(OptimalConfig) if key.name != "plan")
_KINDS = {key.name: str(key.type) for key in fields(OptimalConfig) if key.name != "plan"}
_TYPE_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_OPTIMIZER_NAMES = {  # ours to those of TrainingArguments.optim
    "adamw_torch_fused": "adamw_torch_fused",
    "adamw_torch": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "adafactor": "adafactor",
}


def unknown_keys(values: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    """A line for each key that nobody knows, with the nearest known one."""
    found = []
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            found.append(f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else ""))
    return found


def type_mistakes(values: Mapping[str, Any]) -> list[str]:
    """A line for each known key whose value is of the wrong type."""
    return [
        f"{key}: expected {_TYPE_NAMES[kind]}; received {values[key]!r}"
        for key, kind in _KINDS.items()
        if key in values and not _is(values[key], kind)
    ]


def _is(value: Any, kind: str) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, int) or (kind == "float" and isinstance(value, float))
