"""Parameters in groups that learn at rates of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myna.errors import TrainingError
from myna.models.adapters import without_adapters
from myna.models.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from transformers import PreTrainedModel

WRAPPED = "base_model.model."  # before the names of an adapted model's parameters


def parameter_groups(
    model: PreTrainedModel,
    learning_rates: Mapping[str, float],
    learning_rate: float,
    weight_decay: float,
    decaying: Collection[str],
) -> list[dict[str, Any]]:
    """Groups for an optimizer, always in the same order, so that its saved state fits again.

    Args:
        model: what is trained, perhaps with adapters.
        learning_rates: of parts (encoder, decoder, head) that differ.
        learning_rate: of all others; their groups come first.
        weight_decay: of the decaying parameters.
        decaying: names of parameters.

    Raises:
        TrainingError: a part is named that has nothing to learn.
    """
    parts = parts_of(without_adapters(model))
    groups: dict[tuple[str, bool], dict[str, Any]] = {
        (part, decays): {
            "params": [],
            "lr": learning_rates.get(part, learning_rate),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for part in ("", *learning_rates)
        for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = parts.part_of(name.removeprefix(WRAPPED))
            groups[part if part in learning_rates else "", name in decaying]["params"].append(parameter)
    for named in learning_rates:
        if not (groups[named, True]["params"] or groups[named, False]["params"]):
            raise TrainingError(
                f"training.learning_rates.{named}: expected a part that is trained; received one that is frozen whole",
                "Remove this rate, or train that part.",
            )
    return [group for group in groups.values() if group["params"]]
