"""Tars as a source: what is read from them, and how each hostile one is refused."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import pytest
from recordings import chirp, encoded

from myna.audio.addresses import fetch
from myna.data.sources import tar_members
from myna.data.sources.read import read_source
from myna.data.sources.tar_members import MAX_EXTENDED_BYTES, scan
from myna.errors import SourceError
from myna.samples import Recording, Refusal, RefusalReason

WAV = encoded("wav", chirp(0.1), 16_000)


def info(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.type = len(content), kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=form) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tar_bytes(*members, form=form))
    return path


def pair(key: str, words: str = "xin chào") -> list[tuple[tarfile.TarInfo, bytes]]:
    return [info(f"{key}.wav", WAV), info(f"{key}.txt", words.encode())]


def content_of(row: Recording) -> bytes:
    return fetch([str(row.audio_path)])[0]


def test_keys_texts_and_fields(tmp_path):
    fields = {"Sentence": "from json", "speaker": "an", "locale": "vi", "split": "dev", "path": "/etc/passwd"}
    path = write(
        tmp_path / "a.tar",
        info("./deep", kind=tarfile.DIRTYPE),
        info("./deep/one.wav", WAV),
        info("./deep/one.json", json.dumps(fields).encode()),
        info("two.16k.WAV", WAV + b"2"),
        info("two.txt", "﻿two\nlines ".encode()),
        info("1.2.3.wav", WAV + b"3"),
        info("1.2.3.txt", b"three"),
        info("1.2.4.wav", WAV + b"4"),
        info("1.2.4.txt", b"four"),
        info("five.wav", WAV + b"5"),
        info("five.json", b'{"speaker_id": "bo"}'),
        info("five.txt", b"five"),
        info("five.cls", b"7"),
        info("._five.wav", b"not audio"),
    )
    rows = list(read_source(path, language="en"))
    assert [type(row) for row in rows] == [Recording] * 5
    assert [(r.transcript, r.speaker_id, r.language, r.split) for r in rows] == [
        ("from json", "an", "vi", "valid"),
        ("two lines", "", "en", ""),
        ("three", "", "en", ""),
        ("four", "", "en", ""),
        ("five", "bo", "en", ""),
    ]
    assert [content_of(row) for row in rows] == [WAV, *(WAV + str(n).encode() for n in (2, 3, 4, 5))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_and_long_names(tmp_path, form):
    key = "/".join(["tên dài" * 4] * 4) if form == tarfile.USTAR_FORMAT else "/".join(["tên dài" * 10] * 8)
    path = write(tmp_path / "a.tar", *pair(key, "long"), *pair("b", "short"), form=form)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [tuple(member) for member in scan(path)] == expected
    assert [row.transcript for row in read_source(path)] == ["long", "short"]


def test_folders_and_names_of_tars_give_splits(tmp_path):
    names = {
        "train-00001.tar": "train",
        "shard-0.tar": "",
        "dev/0.tar": "valid",
        "test_of_mine.tar": "",
        "x/test.tar": "test",
    }
    for name in names:
        write(tmp_path / name, *pair(name.replace("/", "_").replace(".", "_"), name))
    rows = list(read_source(tmp_path))
    assert {row.transcript: row.split for row in rows} == names


def test_pairs_that_are_none_are_named(tmp_path):
    path = write(
        tmp_path / "a.tar",
        info("a.wav", WAV),
        info("b.txt", b"b"),
        info("c.wav", WAV),
        info("c.txt", b"\xff\xfe\xfd"),
        info("d.wav", WAV),
        info("d.json", b"[1]"),
        info("e.wav", WAV),
        info("e.json", b"[" * 100_000),
        info("f.wav", WAV),
        info("f.json", b" " * (1 << 20) + b"{}"),
        info("g.wav", WAV),
        info("g.json", b'{"text": "x", "duration": -1}'),
        *pair("good"),
    )
    rows = list(read_source(path))
    assert [row.transcript for row in rows if isinstance(row, Recording)] == ["xin chào"]
    refused = [row for row in rows if isinstance(row, Refusal)]
    assert [row.reason for row in refused] == [RefusalReason.BAD_ROW] * 6 + [RefusalReason.MISSING_FILE]
    for name, row in zip("acdefgb", refused, strict=True):
        assert f"{name}" in row.detail
        assert str(path) in row.detail


def pax(content: bytes, kind: bytes = tarfile.XHDTYPE, declared: int | None = None) -> bytes:
    """A hand-made extended header."""
    member = tarfile.TarInfo("pax")
    member.type, member.size = kind, len(content) if declared is None else declared
    return member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + len(str(len(body) + 2))
    return str(length).encode() + body


def oversized() -> bytes:
    member = tarfile.TarInfo("a.wav")
    member.size = 8_000_000_000
    return member.tobuf(tarfile.USTAR_FORMAT) + bytes(2048)


def negative() -> bytes:
    header = bytearray(tarfile.TarInfo("a.wav").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" * 12  # base 256 of -1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(2048)


GOOD = tar_bytes(*pair("good"))
BODY = GOOD[: 512 + -(-len(WAV) // 512) * 512]  # the first member, without an end
CHECKSUM = bytearray(GOOD)
CHECKSUM[150] ^= 1

HOSTILE = {
    "symbolic link": (
        tar_bytes(*pair("a"), info("b.wav", kind=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "symbolic link",
    ),
    "hard link": (tar_bytes(*pair("a"), info("b.wav", kind=tarfile.LNKTYPE, linkname="a.wav")), "hard link"),
    "device": (tar_bytes(info("b.wav", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)), "character device"),
    "block device": (tar_bytes(info("b.wav", kind=tarfile.BLKTYPE)), "block device"),
    "pipe": (tar_bytes(info("b.wav", kind=tarfile.FIFOTYPE)), "a pipe"),
    "unknown kind": (tar_bytes(info("b.wav", kind=b"Z")), "type b'Z'"),
    "parent": (tar_bytes(*pair("../a")), r"names inside the tar; received \.\./a"),
    "hidden parent": (tar_bytes(*pair("x/../../a")), "names inside the tar"),
    "absolute": (tar_bytes(*pair("/etc/a")), "names inside the tar; received /etc/a"),
    "absolute by pax": (pax(record("path", "/etc/a.wav")) + GOOD, "names inside the tar; received /etc/a.wav"),
    "duplicates": (tar_bytes(*pair("a"), *pair("a")), r"every name once; received a\.wav again"),
    "duplicates spelt otherwise": (tar_bytes(*pair("a"), *pair("./a")), "every name once"),
    "declared beyond the file": (oversized(), r"its header declares 8,000,000,000 bytes"),
    "negative size": (negative(), "its header declares -1"),
    "sparse": (tar_bytes(info("a.wav", kind=tarfile.GNUTYPE_SPARSE)), "a sparse file"),
    "sparse by pax": (pax(record("GNU.sparse.size", "9" * 15)) + GOOD, "a sparse file"),
    "size by pax": (pax(record("size", "9" * 15)) + GOOD, "declares 999,999,999,999,999"),
    "no size by pax": (pax(record("size", "-5")) + GOOD, "expected a size in bytes"),
    "size for all": (pax(record("size", "5"), tarfile.XGLTYPE) + GOOD, "one for all of them"),
    "broken pax": (pax(b"999 path=x\n") + GOOD, "pax records"),
    "endless pax": (pax(b"0 path=x\n") + GOOD, "pax records"),
    "huge pax": (pax(b"x" * (MAX_EXTENDED_BYTES + 1)) + GOOD, "extended headers of at most"),
    "pax beyond the file": (pax(b"", declared=10**9) + GOOD, "its header declares 1,000,000,000"),
    "huge name": (pax(b"x" * 5000 + b"\0", tarfile.GNUTYPE_LONGNAME) + GOOD, "names of at most 4,096"),
    "cut in a member": (GOOD[:600], "to end within 600 bytes"),
    "cut in a header": (BODY + GOOD[:100], "cut off"),
    "cut between members": (BODY, "cut off at byte"),
    "empty": (b"", "cut off at byte 0"),
    "wrong checksum": (bytes(CHECKSUM), "tar header at byte 0; received bad checksum"),
    "one behind the other": (GOOD + GOOD, "nothing behind its end"),
    "gzip": (gzip.compress(GOOD), "compressed by gzip. Uncompress it"),
    "no tar": (b"RIFF" * 1000, "expected a tar header at byte 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused(tmp_path, name):
    content, expected = HOSTILE[name]
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(SourceError, match=expected):
        list(read_source(tmp_path / "bad.tar"))
    write(tmp_path / "good.tar", *pair("good"))
    refused, good = read_source(tmp_path)  # beside others it costs itself only
    assert (refused.audio_path, refused.reason) == (str(tmp_path / "bad.tar"), RefusalReason.UNREADABLE)
    assert good.transcript == "xin chào"


def test_chains_of_headers_end(tmp_path, monkeypatch):
    path = tmp_path / "chain.tar"
    path.write_bytes(pax(record("comment", "x")) * 5000 + GOOD)  # tarfile goes down one call for each
    assert [member.name for member in scan(path)] == ["good.wav", "good.txt"]
    monkeypatch.setattr(tar_members, "MAX_HEADERS", 5000)
    with pytest.raises(SourceError, match="at most 5,000 members"):
        scan(path)


def test_nothing_is_unpacked_and_holes_are_not_read(tmp_path):
    member = tarfile.TarInfo("a.wav")
    member.size = 4 << 30
    path = tmp_path / "in" / "holes.tar"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.seek(member.size, 1)
        file.write(tar_bytes(info("a.txt", b"words")))
    (row,) = read_source(path)
    assert content_of(row).reason == RefusalReason.TOO_LONG
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", "holes.tar"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.tar.bz2", "a.tar.xz", "a.tar.zst"])
def test_compressed_tars_are_refused_with_a_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(GOOD))
    for spec in (tmp_path / name, tmp_path):
        with pytest.raises(SourceError, match=r"received a compressed one\. Uncompress it"):
            list(read_source(spec))


def test_nemo_manifests_name_members_of_tars(tmp_path):
    write(tmp_path / "audio_0.tar", info("a_one.wav", WAV + b"1"), info("b.wav", WAV + b"2"))
    write(tmp_path / "audio_1.tar", info("c.wav", WAV + b"3"))
    rows = [
        {"audio_filepath": "a_one.wav", "text": "one", "duration": 0.05, "offset": 0.0, "shard_id": 0},
        {"audio_filepath": "a_one-sub1.wav", "text": "more", "duration": 0.05, "offset": 0.05, "shard_id": 0},
        {"audio_filepath": "c.wav", "text": "three", "duration": 0.1, "shard_id": 1},
        {"audio_filepath": "d.wav", "text": "none", "duration": 0.1, "shard_id": 1},
    ]
    (tmp_path / "tarred_audio_manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, more, three, none = read_source(tmp_path)
    assert [content_of(row)[-1:] for row in (one, more, three)] == [b"1", b"1", b"3"]
    assert (more.transcript, more.offset_seconds, more.duration_seconds) == ("more", 0.05, 0.05)
    assert (three.offset_seconds, three.duration_seconds) == (None, 0.1)
    assert (none.reason, none.transcript) == (RefusalReason.MISSING_FILE, "none")
    write(tmp_path / "audio_2.tar", info("c.wav", WAV))
    with pytest.raises(SourceError, match=r"names that no other tar has; received c\.wav"):
        list(read_source(tmp_path))


def test_tar_headers_are_what_this_test_thinks(tmp_path):
    """`negative` and `record` make what they say, by the standard library's own reading."""
    assert tarfile.TarInfo.frombuf(negative()[:512], "utf-8", "strict").size == -1
    assert record("path", "x") == b"10 path=x\n"
    assert struct.calcsize("512s") == tarfile.BLOCKSIZE
