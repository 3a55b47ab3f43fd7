from __future__ import annotations

import pytest
import torch

from myna.models.recognizer import decoding


@pytest.mark.parametrize("training", [True, False])
def test_decoding_puts_the_mode_back(training: bool) -> None:
    model = torch.nn.Linear(1, 1).train(training)
    with pytest.raises(ZeroDivisionError), decoding(model):  # type: ignore[arg-type]
        assert not model.training
        assert torch.is_inference_mode_enabled()
        raise ZeroDivisionError
    assert model.training is training
