"""The short form of bench/chaos.py: kill -9 of producers, trainer and Redis, and weights as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6


@pytest.mark.slow
def test_chaos_changes_no_weight_no_loss_and_no_batch(tone_catalog, tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "chaos.py"), "--db", str(tone_catalog), "--keep", str(tmp_path)]
    command += ["--seconds", "60", "--kills", str(KILLS), "--epochs", "12", "--save-steps", "4"]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert finished.stdout, finished.stderr
    figures = json.loads(finished.stdout)
    assert figures["equal"], figures
    assert figures["losses_equal"] and figures["batches_equal"] and figures["exactly_once"], figures
    assert set(figures["kills"]) == {"producer", "trainer", "redis"}
    assert figures["kills_in_all"] == KILLS, figures
