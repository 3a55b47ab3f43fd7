"""Time from operations and rates, with known answers; rates measured on this machine are checked against it."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from myna.audio.augment.chain import Chain
from myna.audio.augment.speed import Speed
from myna.audio.features import LogMel
from myna.data.catalog import Catalog
from myna.feed.epoch import BatchBudget, plan_epoch
from myna.models.ctc import CTCProcessor
from myna.models.tokenizer import TextTokenizer
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.speed import Calibration, ProducerRate, Rate, measure_producer, predict_speed, sustained_rate

RATE = Rate(1e9, "a test")


def linear_flops(clips: int, seconds: float) -> float:
    """A billion operations a padded second."""
    return 1e9 * clips * seconds


def predict(durations, **changes):
    values = {"utterances": len(durations), "budget": BatchBudget(80.0, num_buckets=4)} | changes
    return predict_speed(linear_flops, RATE, np.asarray(durations, dtype=np.float64), **values)


def test_an_epoch_of_equal_clips():
    """100 clips of 8 s, ten a step: ten steps of 80 s of audio, at 1 s an audio second."""
    speed = predict([8.0] * 100, num_epochs=9)
    assert speed.steps_per_epoch == 10
    assert speed.step_seconds == pytest.approx(80)
    assert speed.epoch_seconds == pytest.approx(800)
    assert speed.hours == pytest.approx(2)
    assert speed.audio_seconds_per_second == pytest.approx(1)


def test_a_number_of_steps_counts_instead_of_epochs():
    speed = predict([8.0] * 100, num_epochs=9, max_steps=45)
    assert speed.num_epochs == pytest.approx(4.5)
    assert speed.hours == pytest.approx(1)


def test_quantiles_stand_for_all_utterances():
    assert predict([8.0] * 10, utterances=1000).epoch_seconds == pytest.approx(8000)


def test_devices_share_a_step():
    alone, together = predict([8.0] * 100), predict([8.0] * 100, gpu_count=5)
    assert together.epoch_seconds == pytest.approx(alone.epoch_seconds / 5)
    assert together.audio_seconds_per_second == pytest.approx(5)


def test_accumulation_costs_no_time_but_rounding():
    assert predict([8.0] * 100, accumulation=5).epoch_seconds == pytest.approx(800)
    assert predict([8.0] * 100, accumulation=3).epoch_seconds == pytest.approx(10 * 3 * 4 * 8)


def test_more_parts_than_clips_are_not_paid_for():
    assert predict([80.0] * 10, accumulation=4).epoch_seconds == pytest.approx(800)


def test_steps_are_those_of_the_feed():
    durations = np.random.default_rng(0).gamma(4.0, 2.0, 3000).clip(0.5, 30)
    budget = BatchBudget(240.0)
    planned = plan_epoch(durations, budget, seed=0, epoch=0).steps
    padded = sum(len(step) * durations[step].max() for step in planned)
    speed = predict(durations, budget=budget)
    assert speed.steps_per_epoch == pytest.approx(len(planned), rel=0.03)
    assert speed.epoch_seconds == pytest.approx(padded, rel=0.05)


def test_padding_is_paid_for_and_not_heard():
    """Whisper hears 30 s whatever the clip: 25 clips of 8 s cost 30 s each."""
    speed = predict([30.0] * 25, audio_hours=200 / 3600, budget=BatchBudget(150.0))
    assert speed.epoch_seconds == pytest.approx(750)
    assert speed.audio_seconds_per_second == pytest.approx(200 / 750)


def test_producers_are_rounded_up():
    rate = Rate(100e9, "a test")
    speed = predict_speed(
        linear_flops,
        rate,
        np.full(100, 8.0),
        utterances=100,
        budget=BatchBudget(80.0),
        producer=ProducerRate(40.0, utterances=8),
    )
    assert speed.audio_seconds_per_second == pytest.approx(100)
    assert speed.producers_needed == 3
    assert predict([8.0]).producers_needed is None


def test_it_can_be_written_as_json():
    assert json.loads(json.dumps(predict([8.0] * 10).to_json()))["rate"]["flops_per_second"] == 1e9


def test_calibration_is_the_median_after_the_warm_up():
    calibration = Calibration.of([90, 50, 2, 4, 6, 40, 4], [1, 1, 1, 2, 3, 2, 2])
    assert calibration == Calibration(factor=2.0, spread=0.0, steps=5)
    assert RATE.calibrated(calibration).flops_per_second == 0.5e9
    assert "5 steps" in RATE.calibrated(calibration).source


def test_calibration_waits_for_the_third_step():
    assert Calibration.of([9.0, 5.0], [1.0, 1.0]) is None
    assert Calibration.of([9.0, 5.0, 3.0], [1.0, 1.0, 2.0]) == Calibration(1.5, 0.0, 1)


def test_rates_of_cards():
    t4 = HardwareProfile.of_card("T4")
    half, full = sustained_rate(t4, "fp16"), sustained_rate(t4, "fp32")
    assert half.flops_per_second == pytest.approx(0.12 * 65e12)
    assert full.flops_per_second < half.flops_per_second
    assert "assumed" in half.source
    assert sustained_rate(HardwareProfile.of_card("A100 40GB MIG 1g.5gb"), "bf16").flops_per_second == pytest.approx(
        sustained_rate(HardwareProfile.of_card("A100 40GB"), "bf16").flops_per_second / 7
    )


def test_nothing_is_known_of_a_card_without_a_name():
    assert sustained_rate(HardwareProfile.of_memory(24)) is None


def test_a_cpu_is_measured():
    """Against a product of its own, timed here; a busy machine makes both vary."""
    matrix = torch.rand(1024, 1024)
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    here = 4 * 2 * 1024**3 / (time.perf_counter() - started)
    rate = sustained_rate(HardwareProfile.of_memory(8, device="cpu"))
    assert 0.05 < rate.flops_per_second / here < 5


@pytest.fixture
def processor():
    return CTCProcessor(TextTokenizer.train(["abcd ab"], "char", 32), LogMel())


def test_producers_are_timed_on_real_clips(tone_catalog, processor):
    with Catalog(tone_catalog) as catalog:
        utterances = list(catalog.utterances(split="train"))
    threads = torch.get_num_threads()
    plain = measure_producer(utterances, processor)
    augmented = measure_producer(utterances, processor, Chain([Speed()]))
    assert plain.utterances == augmented.utterances == 32
    assert plain.audio_seconds_per_second > 10  # any machine decodes faster than ten times real time
    assert augmented.audio_seconds_per_second > 1
    assert torch.get_num_threads() == threads


def test_a_dataset_that_cannot_be_read_has_no_rate(tone_catalog, processor, tmp_path):
    from dataclasses import replace

    with Catalog(tone_catalog) as catalog:
        utterance = next(iter(catalog.utterances(split="train")))
    assert measure_producer([replace(utterance, audio_path=str(tmp_path / "gone.wav"))], processor) is None
