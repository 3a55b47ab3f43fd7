from __future__ import annotations

import pytest

from myna.files import link_atomically, staged_folder, write_atomically


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "scores.json"
    write_atomically(path, "old")
    write_atomically(path, "tiếng Việt")
    assert path.read_text() == "tiếng Việt"
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.json"]


def test_a_folder_appears_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "checkpoint-1"
    with staged_folder(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    with pytest.raises(OSError, match="disk full"), staged_folder(target) as staging:
        (staging / "a").write_text("2")
        raise OSError("disk full")
    assert (target / "a").read_text() == "1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_link_moves_in_one_step(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        link_atomically(tmp_path / "best", name)
    assert (tmp_path / "best").resolve().name == "two"
