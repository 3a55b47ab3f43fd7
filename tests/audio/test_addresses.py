"""Addresses: what they name, what they bring, and every way in which they fail."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from recordings import chirp, encoded

from myna.audio import addresses
from myna.audio.addresses import ByteRange, address_of, byte_range, fetch, filesystem, may_be_read, size_and_change
from myna.audio.decode import decode, probe
from myna.errors import AudioError, DataError
from myna.samples import RefusalReason

FLAC = encoded("flac", chirp(1.0), 16_000)
MP3 = encoded("mp3", chirp(1.5), 16_000)


@pytest.fixture
def pack(tmp_path):
    """A file with two recordings in it."""
    path = tmp_path / "pack.tar"
    path.write_bytes(b"x" * 100 + FLAC + b"y" * 7 + MP3)
    return path


def reason(answer: bytes | AudioError) -> RefusalReason:
    assert isinstance(answer, AudioError)
    return answer.reason


def test_an_address_is_a_path_or_a_range(tmp_path):
    assert byte_range("/a/b.wav") is None
    assert byte_range("/a/b.tar#512+77") == ByteRange("/a/b.tar", 512, 77)
    assert byte_range("s3://bucket/x#y.tar#0+1") == ByteRange("s3://bucket/x#y.tar", 0, 1)
    assert address_of("/a/b.tar", 512, 77) == "/a/b.tar#512+77"
    for plain in ("/a/b.tar#", "/a/b#1", "/a/b#1+", "/a/b#-1+2", "/a/b#1+2.wav", "#1+2", "/a/b#1+" + "9" * 30):
        assert byte_range(plain) is None


def test_a_file_that_is_called_like_a_range_is_a_file(tmp_path):
    path = tmp_path / "take #12+34"
    path.write_bytes(FLAC)
    assert byte_range(path) is None
    assert fetch([str(path)]) == [FLAC]
    assert len(decode(path).samples) == 16_000
    within = tmp_path / "songs #1+2" / "x.tar"
    within.parent.mkdir()
    within.write_bytes(FLAC)
    assert fetch([f"{within}#0+4"]) == [b"fLaC"]


def test_ranges_decode_like_files(pack, tmp_path):
    (tmp_path / "a.flac").write_bytes(FLAC)
    (tmp_path / "b.mp3").write_bytes(MP3)
    for name, offset, size in (("a.flac", 100, len(FLAC)), ("b.mp3", 107 + len(FLAC), len(MP3))):
        address = address_of(str(pack), offset, size)
        assert probe(address) == probe(tmp_path / name)
        for options in ({}, {"offset_seconds": 0.25, "duration_seconds": 0.5}):
            expected = decode(tmp_path / name, **options).samples
            np.testing.assert_array_equal(decode(address, **options).samples, expected)
            np.testing.assert_array_equal(decode(fetch([address])[0], **options).samples, expected)


def test_many_come_in_the_order_they_were_asked_for(pack, tmp_path):
    other = tmp_path / "one.flac"
    other.write_bytes(FLAC)
    asked = [f"{pack}#107+5", str(other), f"{pack}#0+3", f"{tmp_path}/no.tar#0+3", f"{pack}#107+5"]
    one, two, three, four, five = fetch(asked)
    assert (one, two, three, five) == (FLAC[7:12], FLAC, b"xxx", FLAC[7:12])
    assert reason(four) == RefusalReason.MISSING_FILE
    assert fetch([]) == []


def test_every_failure_has_its_reason(pack, tmp_path):
    size = pack.stat().st_size
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    expected = {
        f"{tmp_path}/no.tar#0+3": RefusalReason.MISSING_FILE,
        f"{pack}/no.tar#0+3": RefusalReason.MISSING_FILE,
        f"{tmp_path}/no.wav": RefusalReason.MISSING_FILE,
        f"{pack}#{size - 2}+3": RefusalReason.TRUNCATED,
        f"{pack}#{size + 2}+3": RefusalReason.TRUNCATED,
        f"{pack}#{10**17}+3": RefusalReason.TRUNCATED,
        f"{pack}#0+0": RefusalReason.EMPTY_AUDIO,
        f"{pack}#0+{2**30 + 1}": RefusalReason.TOO_LONG,
        f"{tmp_path}/folder.tar#0+3": RefusalReason.UNREADABLE,
        f"{tmp_path}/pipe.tar#0+3": RefusalReason.UNREADABLE,
        f"{tmp_path}/\0.tar#0+3": RefusalReason.UNREADABLE,
    }
    assert [reason(answer) for answer in fetch(list(expected))] == list(expected.values())
    for address, why in expected.items():
        with pytest.raises(AudioError) as caught:
            decode(address)
        assert caught.value.reason == why
    assert "expected 3 bytes from byte" in fetch([f"{pack}#{size - 2}+3"])[0].detail


def test_without_permission_it_cannot_be_read(pack):
    code = (
        "import os, sys\n"
        "from myna.audio.addresses import fetch, may_be_read\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"  # root reads everything
        "print(fetch([sys.argv[1]])[0].reason.value, may_be_read(sys.argv[1]))"
    )
    pack.chmod(0)
    done = subprocess.run([sys.executable, "-c", code, f"{pack}#0+3"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["unreadable", "False"]


def test_size_and_change_are_the_members_and_the_tars(pack):
    assert size_and_change(f"{pack}#100+9") == (9, pack.stat().st_mtime_ns)
    assert size_and_change(pack) == (pack.stat().st_size, pack.stat().st_mtime_ns)
    assert may_be_read(f"{pack}#100+9")
    for gone in (f"{pack}.gone#100+9", "s3://bucket/a.tar#1+2"):
        assert not may_be_read(gone)
        with pytest.raises(FileNotFoundError):
            size_and_change(gone)


def test_other_protocols_are_read_the_same_way():
    import fsspec

    fsspec.filesystem("memory").pipe("/myna/pack.tar", b"x" * 100 + FLAC)
    good = f"memory://myna/pack.tar#100+{len(FLAC)}"
    found = fetch([good, "memory://myna/no.tar#0+3", f"memory://myna/pack.tar#{100 + len(FLAC) - 1}+3"])
    assert found[0] == FLAC
    assert [reason(answer) for answer in found[1:]] == [RefusalReason.MISSING_FILE, RefusalReason.TRUNCATED]
    assert len(decode(good).samples) == 16_000


def test_a_missing_package_says_what_to_install():
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from myna.audio.addresses import fetch\n"
        "from myna.errors import MissingExtraError\n"
        "try: fetch(['s3://bucket/a.tar#0+3'])\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "this needs the package s3fs. Install it with: pip install 'myna[s3]'\n"
    with pytest.raises(DataError, match="expected a protocol that fsspec knows"):
        filesystem("s4://bucket/a.tar")


def test_plain_paths_are_not_looked_at_twice(monkeypatch, tmp_path):
    looked = []
    monkeypatch.setattr(addresses.os.path, "lexists", lambda path: looked.append(path) or True)
    assert byte_range(tmp_path / "a.wav") is None
    assert looked == []
