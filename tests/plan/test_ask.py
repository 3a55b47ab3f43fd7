"""Figures that nothing has are refused; what is given is what is answered for."""

from __future__ import annotations

import math

import pytest

from myna.config import load_config
from myna.data.shards.write import write_shards
from myna.errors import PlanError, VersionError
from myna.plan import ask
from myna.plan.ask import Question, answer
from myna.plan.memory.predict import memory_model


@pytest.fixture(autouse=True)
def _traced_elsewhere(monkeypatch):
    """A command traces in its own process; that patches torch for good, which other tests would meet."""
    monkeypatch.setattr(ask, "memory_model_here", memory_model)


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"memory_gb": math.nan, "gpu": "T4"}, "--memory-gb: expected 0 to 10000; received nan"),
        ({"memory_gb": math.inf, "gpu": "T4"}, "--memory-gb: expected 0 to 10000; received inf"),
        ({"memory_gb": -3, "gpu": "T4"}, "--memory-gb"),
        ({"memory_gb": 40, "gpu": "T4", "hours": 1}, "--memory-gb: expected at most the 15.63 that a T4 has"),
        ({"hours": -5}, "--hours"),
        ({"hours": 1, "check": "4", "longest_seconds": math.nan}, "--longest-seconds"),
        ({"hours": 1, "check": "4", "longest_seconds": 1e9}, "--longest-seconds: expected 0 to 3600"),
        ({"longest_seconds": 20}, "--longest-seconds: expected --hours with it"),
        ({"hours": 1, "advise": True, "check": "4"}, "--advise, --check"),
        ({"hours": 1, "gpu": "T4", "check": "4x0"}, "--check"),
    ],
)
def test_impossible_figures_are_refused(values, refused):
    with pytest.raises(PlanError) as error:
        answer(load_config([]), Question(**values))
    assert refused in str(error.value)


@pytest.mark.slow
def test_a_check_needs_no_dataset_and_keeps_what_is_trained():
    question = Question(gpu="T4", model="wav2vec2-xls-r-300m", check="1", longest_seconds=4)
    frozen = answer(load_config([]), question).rows
    assert {row.seconds for row in frozen} == {4}
    assert len(frozen) == 3
    trained = answer(load_config([], ["model.freeze_front_end=false"]), question).rows
    assert len(trained) == 2  # no front end that could run clip by clip


@pytest.mark.slow
def test_a_catalog_is_planned_for_with_the_rate_at_which_its_recordings_are_prepared(tone_catalog):
    sizes = ["model.d_model=48", "model.num_encoder_layers=2", "model.d_ff=96", "model.conv_kernel_size=7"]
    plan = answer(load_config([], [f"data.db={tone_catalog}", *sizes]), Question(gpu="T4"))
    assert plan.speed.producer.audio_seconds_per_second > 1
    assert plan.speed.producers_needed >= 1
    assert "producers needed" in str(plan)


@pytest.mark.slow
def test_shards_are_planned_for_without_a_catalog(tone_catalog, tmp_path):
    write_shards(tone_catalog, tmp_path / "shards", workers=0)
    sizes = ["model.d_model=48", "model.num_encoder_layers=2", "model.d_ff=96", "model.conv_kernel_size=7"]
    plans = [
        answer(load_config([], [*data, *sizes]), Question(gpu="T4"))
        for data in (
            [f"data.db={tone_catalog}"],
            [f"data.shards={tmp_path / 'shards'}", f"data.db={tmp_path / 'none.db'}"],
        )
    ]
    assert plans[1].settings == plans[0].settings
    assert plans[1].dataset.labels_per_second == pytest.approx(plans[0].dataset.labels_per_second)
    with pytest.raises(VersionError, match="expected shards of version 0123"):
        answer(load_config([], [f"data.shards={tmp_path / 'shards'}", "data.version=0123", *sizes]), Question(gpu="T4"))
