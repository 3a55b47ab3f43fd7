from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from pitches import tone

from myna.audio.augment.level import power
from myna.audio.augment.telephone import Telephone, mu_law
from myna.samples import AudioClip


def test_mu_law_is_that_of_libsndfile():
    pcm = np.arange(-32_768, 32_768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, 8_000, format="AU", subtype="ULAW")
    file.seek(0)
    expected, _ = soundfile.read(file, dtype="int16")
    heard = np.rint(mu_law(pcm.astype(np.float32) / 32_768) * 32_768)
    assert np.array_equal(heard, expected)


def test_mu_law_clips_and_keeps_silence():
    heard = mu_law(np.array([2.0, -2.0, 0.0], np.float32)) * 32_768
    assert heard.tolist() == [32_124, -32_124, 0]  # G.711's largest value


def test_noise_of_the_steps_is_38_db_below_speech_level():
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(80_000)).astype(np.float32)
    error = mu_law(samples) - samples
    assert 10 * np.log10(np.mean(samples**2) / np.mean(error**2)) == pytest.approx(
        38, abs=1.5
    )  # G.711's textbook figure


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
@pytest.mark.parametrize(("hz", "lowest_db", "highest_db"), [(80, -99, -30), (1_000, -1, 1), (3_000, -2, 1)])
def test_the_band(rate_hz, hz, lowest_db, highest_db):
    """A weak tone beside a strong one within the band, which the level is taken from."""
    both = tone(500, rate_hz).samples + 0.3 * tone(hz, rate_hz).samples
    heard = Telephone().apply(AudioClip(both.astype(np.float32), rate_hz), {"line_level_dbfs": -20.0}).samples
    spectrum = np.abs(np.fft.rfft(heard))[2 * hz] / np.abs(np.fft.rfft(both))[2 * hz]
    reference = np.abs(np.fft.rfft(heard))[1_000] / np.abs(np.fft.rfft(both))[1_000]
    assert lowest_db < 20 * np.log10(spectrum / reference) < highest_db


def test_nothing_is_left_above_the_band_and_the_level_is_kept():
    noise = AudioClip(np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1, 16_000)
    heard = Telephone().apply(noise, {"line_level_dbfs": -20.0}).samples
    assert power(heard) == pytest.approx(power(noise.samples), rel=1e-4)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) ** 2
    assert spectrum[2 * 4_400 :].sum() < 1e-6 * spectrum.sum()


def test_a_faint_line_is_a_rough_one():
    clip = AudioClip(np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1, 8_000)
    clear, faint = (Telephone().apply(clip, {"line_level_dbfs": level}).samples for level in (-20.0, -70.0))
    assert len(np.unique(np.round(faint, 6))) < 0.1 * len(np.unique(np.round(clear, 6)))
