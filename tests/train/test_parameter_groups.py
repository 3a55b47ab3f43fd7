from __future__ import annotations

import pytest
from torch import nn

from myna.errors import TrainingError
from myna.models.parts import freeze_part
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.train.parameter_groups import parameter_groups

RATES = {"head": 1e-2, "encoder": 1e-4}


def tiny() -> TransformerForCTC:
    return TransformerForCTC(TransformerConfig(d_model=16, num_encoder_layers=1, num_heads=2, d_ff=32, vocab_size=8))


def counts(groups: list) -> list[tuple[float, float, int]]:
    return [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]


def test_every_trained_parameter_is_in_one_group() -> None:
    model = tiny()
    decaying = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    groups = parameter_groups(model, {"head": 1e-2}, 1e-3, 0.1, decaying)
    total = len(list(model.parameters()))
    assert counts(groups) == [
        (1e-3, 0.1, len(decaying) - 1),
        (1e-3, 0.0, total - len(decaying) - 1),
        (1e-2, 0.1, 1),
        (1e-2, 0.0, 1),
    ]
    assert [id(parameter) for parameter in groups[2]["params"]] == [id(model.head.weight)]


def test_adapters_belong_to_the_part_they_adapt() -> None:
    import warnings

    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        model = get_peft_model(tiny(), settings)
    groups = parameter_groups(model, RATES, 1e-3, 0.0, ())
    assert counts(groups) == [(1e-2, 0.0, 2), (1e-4, 0.0, 2)]


def test_a_part_that_does_not_learn_has_no_rate() -> None:
    model: nn.Module = tiny()
    for part in ("subsampling", "layers", "norm"):
        freeze_part(model, part)
    with pytest.raises(TrainingError, match=r"learning_rates\.encoder: expected a part that is trained"):
        parameter_groups(model, RATES, 1e-3, 0.0, ())
