from __future__ import annotations

from pathlib import Path

import pytest
import torch

from myna.errors import ModelError
from myna.models.recognizer import decoding, read_metadata, write_metadata


def test_metadata_round_trip(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == {}
    write_metadata(tmp_path, {"family": "conformer", "language": "việt"})
    assert read_metadata(tmp_path) == {"family": "conformer", "language": "việt"}


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": "' + "x" * 100_000 + '"}'])
def test_broken_metadata(content: str, tmp_path: Path) -> None:
    (tmp_path / "myna.json").write_text(content)
    with pytest.raises(ModelError, match=r"myna\.json: expected"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_decoding_puts_the_mode_back(training: bool) -> None:
    model = torch.nn.Linear(1, 1).train(training)
    with pytest.raises(ZeroDivisionError), decoding(model):  # type: ignore[arg-type]
        assert not model.training
        assert torch.is_inference_mode_enabled()
        raise ZeroDivisionError
    assert model.training is training
