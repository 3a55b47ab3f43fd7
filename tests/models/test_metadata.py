from __future__ import annotations

from pathlib import Path

import pytest

from myna.errors import ModelError
from myna.models.metadata import read_metadata, write_metadata


def test_metadata_round_trip(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == {}
    write_metadata(tmp_path, {"family": "conformer", "language": "việt"})
    assert read_metadata(tmp_path) == {"family": "conformer", "language": "việt"}


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": "' + "x" * 1_000_000 + '"}'])
def test_broken_metadata(content: str, tmp_path: Path) -> None:
    (tmp_path / "myna.json").write_text(content)
    with pytest.raises(ModelError, match=r"myna\.json: expected"):
        read_metadata(tmp_path)
