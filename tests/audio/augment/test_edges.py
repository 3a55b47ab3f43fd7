from __future__ import annotations

import numpy as np

from myna.audio.augment.edges import Edges
from myna.samples import AudioClip

CLIP = AudioClip(np.arange(1.0, 1001.0, dtype=np.float32), 1_000)
NOTHING = {"start_cut_share": 0.0, "end_cut_share": 0.0, "start_silence_seconds": 0.0, "end_silence_seconds": 0.0}


def test_cut_then_silence():
    parameters = {
        "start_cut_share": 0.1,
        "end_cut_share": 0.25,
        "start_silence_seconds": 0.02,
        "end_silence_seconds": 0.05,
    }
    samples = Edges().apply(CLIP, parameters).samples
    assert len(samples) == 20 + 650 + 50
    assert not samples[:20].any()
    assert not samples[-50:].any()
    assert (samples[20], samples[-51]) == (101.0, 750.0)
    assert samples.dtype == np.float32


def test_nothing_drawn_changes_nothing():
    assert np.array_equal(Edges().apply(CLIP, NOTHING).samples, CLIP.samples)


def test_something_is_always_left():
    both = NOTHING | {"start_cut_share": 0.5, "end_cut_share": 0.5}
    assert len(Edges().apply(AudioClip(CLIP.samples[:1], 1_000), both).samples) == 1


def test_draws_keep_to_the_settings():
    edges = Edges(max_start_cut_share=0.1, max_end_cut_share=0.3, cut_probability=0.5, max_silence_seconds=0.2)
    rng = np.random.default_rng(0)
    drawn = [edges.draw(rng) for _ in range(2_000)]
    cuts = np.array([[row["start_cut_share"], row["end_cut_share"]] for row in drawn])
    silences = np.array([[row["start_silence_seconds"], row["end_silence_seconds"]] for row in drawn])
    assert 0.09 < cuts[:, 0].max() <= 0.1
    assert 0.28 < cuts[:, 1].max() <= 0.3
    assert 0.19 < silences.max() <= 0.2
    assert abs((cuts > 0).mean() - 0.5) < 0.03
    assert abs((silences > 0).all(axis=1).mean() - 0.5) < 0.03
    whole = Edges().draw(rng)
    assert whole["start_cut_share"] == whole["end_cut_share"] == 0.0
