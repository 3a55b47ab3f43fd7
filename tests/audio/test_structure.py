from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from recordings import KINDS, chirp, encoded

from myna.audio.structure import adts_seconds, cut_off, sniff


@pytest.mark.parametrize("kind", KINDS)
def test_formats_are_told_by_their_first_bytes(kind):
    data = encoded(kind, chirp(0.5), 16_000)
    assert sniff(io.BytesIO(data)) == {"opus": "ogg"}.get(kind, kind)
    assert cut_off(io.BytesIO(data)) == ""


def test_an_id3_tag_in_front_is_passed_over():
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)  # seven bits a byte: 2 * 128
    data = tag + encoded("aac", chirp(1.0), 16_000)
    assert sniff(io.BytesIO(data)) == "aac"
    assert adts_seconds(io.BytesIO(data)) == pytest.approx(1.0, abs=0.1)
    assert sniff(io.BytesIO(b"no sound")) == sniff(io.BytesIO(b"")) == ""


def test_missing_bytes_are_counted():
    data = encoded("wav", np.zeros(16_000, np.float32), 16_000)
    assert cut_off(io.BytesIO(data[:-2_000])) == "expected 32,044 bytes, as its header declares; received 30,044"
    assert cut_off(io.BytesIO(data[:-1_000])) == ""  # writers miscount by less than a frame


def test_m4a_without_its_index():
    data = encoded("m4a", chirp(1.0), 16_000)
    at = data.index(b"moov") - 4
    assert "moov" in cut_off(io.BytesIO(data[:at]))


def test_a_box_of_absurd_length():
    box = struct.pack(">I4sQ", 1, b"ftyp", 2**64 - 1)
    assert cut_off(io.BytesIO(box + bytes(100))).startswith("expected 18,446,744,073,709,551,615 bytes")


def test_a_live_ogg_has_no_end():
    data = encoded("ogg", chirp(1.0), 16_000)
    last_page = data.rindex(b"OggS")
    assert cut_off(io.BytesIO(data[:last_page])) == "its last ogg page does not end the stream"
    assert cut_off(io.BytesIO(data[:-1])) == "its last ogg page is not complete"
