"""Damage of every kind is named, and nothing hostile in a manifest or an index is followed."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from myna.data.shards.index import ShardIndex
from myna.data.shards.verify import verify
from myna.data.shards.write import write_shards
from myna.errors import DataError, VersionError


@pytest.fixture(scope="module")
def whole(tone_catalog, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "shards"
    write_shards(tone_catalog, out, shard_mb=0.3, workers=0)
    return out


@pytest.fixture
def shards(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "shards")


TAR = "train/shard-000000.tar"
INDEX = "train/shard-000000.index.jsonl"


def flip(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def found(shards) -> tuple[str, ...]:
    return verify(shards, workers=0).mismatches


def test_what_is_whole_is_whole(whole):
    seen = []
    report = verify(whole, workers=0, progress=lambda *counts: seen.append(counts))
    assert report.mismatches == ()
    assert report.utterances == 128
    assert seen[-1] == (report.shards, report.shards)


def test_a_flipped_bit_names_the_member(shards):
    record = json.loads((shards / INDEX).read_text().splitlines()[3])
    flip(shards / TAR, record["offset_bytes"] + 50)
    member, tar = found(shards)
    assert f"{TAR}: {record['member']}: expected sha256" in member
    assert f"{TAR}: expected sha256" in tar


def test_a_flipped_bit_between_members_names_the_tar(shards):
    flip(shards / TAR, 5)
    (tar,) = found(shards)
    assert f"{TAR}: expected sha256" in tar


def test_every_damaged_file_is_named(shards):
    names = sorted(str(path.relative_to(shards)) for path in shards.rglob("*.tar"))
    assert len(names) > 3
    flip(shards / names[0], 5)
    (shards / names[1]).unlink()
    (shards / names[2]).write_bytes((shards / names[2]).read_bytes()[:-600])
    with (shards / names[3]).open("ab") as file:
        file.write(b"more")
    problems = found(shards)
    assert {name: any(name in problem for problem in problems) for name in names[:4]} == dict.fromkeys(names[:4], True)
    assert not any(name in problem for name in names[4:] for problem in problems)


def test_a_damaged_or_missing_index_is_named_and_not_read(shards):
    flip(shards / INDEX, 30)
    assert INDEX in found(shards)[0]
    with pytest.raises(DataError, match=r"shard-000000\.index\.jsonl: expected sha256"):
        ShardIndex(shards).utterances("train")
    (shards / INDEX).unlink()
    assert INDEX in found(shards)[0]
    with pytest.raises(DataError, match="there is none"):
        ShardIndex(shards).utterances("train")


def edit(shards, change) -> None:
    """Change the first shard's entry in the manifest."""
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["shards"][0])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("path", ["../x.tar", "/etc/shard-000000.tar", "train/../../shard-000000.tar", "s3://b/x.tar"])
def test_a_manifest_cannot_point_elsewhere(shards, path):
    edit(shards, lambda entry: entry.update(path=path))
    with pytest.raises(DataError, match=r"received shards\.0\.path"):
        ShardIndex(shards)


@pytest.mark.parametrize(
    "change",
    [
        {"offset_bytes": -5},
        {"offset_bytes": 10**12},
        {"size_bytes": -1},
        {"size_bytes": "5"},
        {"offset_bytes": None},
        {"speaker_id": 5},
        {"duration_seconds": "x"},
    ],
)
def test_an_index_cannot_point_outside_its_tar(shards, change):
    lines = (shards / INDEX).read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    content = "\n".join(lines).encode()
    (shards / INDEX).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(shards, lambda entry: entry.update(index_bytes=len(content), index_sha256=digest))
    with pytest.raises(DataError, match="expected an index that fits its tar"):
        ShardIndex(shards).utterances("train")
    if set(change) & {"offset_bytes", "size_bytes"}:
        assert INDEX in " ".join(found(shards)) or TAR in " ".join(found(shards))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "other"}', b'{"format_version": 2}', b"\xff"])
def test_a_broken_manifest(shards, content):
    (shards / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="expected shards of format 1"):
        ShardIndex(shards)


def test_a_split_that_is_none(whole):
    with pytest.raises(VersionError, match="expected a split"):
        ShardIndex(whole).utterances("dev")
