from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

from rich.console import Console

from myna.data.shards.layout import LeftOut
from myna.data.shards.summary import render_shards, render_verified
from myna.data.shards.verify import VerifyReport
from myna.data.shards.write import ShardReport

REPORT = ShardReport("b42b", "s3://speech/x", "original", 12, 5, 1391, 8058.4, 50_939_904, ())


def shown(rendered) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(rendered)
    return console.file.getvalue()


def test_what_was_made_and_what_was_left_out():
    text = shown(render_shards(REPORT))
    assert "Dataset version b42b as 12 shards in s3://speech/x: 5 made, 7 there already" in text
    assert "1,391 utterances, 2.24 hours, 50.9 MB, original audio" in text
    left_out = tuple(LeftOut(f"{n:016x}", f"/clips/{n}.wav", "missing_file", "none") for n in range(23))
    text = shown(render_shards(replace(REPORT, left_out=left_out)))
    assert "23 utterances are left out" in text
    assert "/clips/19.wav" in text
    assert "/clips/20.wav" not in text
    assert "and 3 more" in text
    assert json.loads(json.dumps(asdict(replace(REPORT, left_out=left_out))))["left_out"][0]["reason"] == "missing_file"


def test_what_is_damaged():
    report = VerifyReport("b42b", "/x", 12, 1391, 50_939_904, ())
    assert render_verified(report) == (
        "Dataset version b42b in /x: 12 shards, 1,391 utterances, 50.9 MB: all as written"
    )
    assert "1 mismatches\ntrain/shard-000000.tar: gone\nDelete" in render_verified(
        replace(report, mismatches=("train/shard-000000.tar: gone",))
    )
