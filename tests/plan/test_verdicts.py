from __future__ import annotations

from dataclasses import replace

from plan_cases import Asked, card, model

from myna.models.audio_context import AudioContext
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.verdicts import PUBLISHED_ROWS, published_verdicts, verdicts


def test_each_way_has_its_verdict_and_because():
    """4 clips of 30 s: 7.7 GB plain, 5.3 checkpointed, 3.5 with the front end by clip; there are 4.5."""
    plain, checkpointed, by_clip = verdicts(card(4.5), model(), 4, 8, 30, ask=Asked())
    assert [plain.fits, checkpointed.fits, by_clip.fits] == [False, False, True]
    assert [plain.largest, checkpointed.largest, by_clip.largest] == [1, 3, 7]
    assert plain.peak_bytes == 16 * 10**8 + 10**8 + 4 * 30 * 50_000_000
    assert "4 x 8 clips of 30.00 s, plain: does not fit, because it takes 7.17 GiB of 4.19 GiB" in str(plain)
    assert "at most 7 would fit" in str(by_clip)


def test_a_model_without_such_a_front_end_has_two_ways():
    assert len(verdicts(card(10), model(family="conformer", frozen=()), 4, 1, 30, ask=Asked())) == 2


def test_whisper_hears_its_window_whatever_the_clip():
    assert {
        found.seconds for found in verdicts(card(10), model(family="whisper", frozen=()), 1, 1, 4, ask=Asked())
    } == {30}


def test_whisper_in_short_context_hears_the_clip_and_its_margin():
    subject = replace(model(family="whisper", frozen=()), context=AudioContext(3.0))
    assert {found.seconds for found in verdicts(card(10), subject, 1, 1, 4, ask=Asked())} == {7}


def test_the_published_rows_name_known_cards():
    assert len({HardwareProfile.of_card(row[0]).gpu_name for row in PUBLISHED_ROWS}) == 5
    found = published_verdicts(ask=Asked())
    assert len(found) == 3 * len(PUBLISHED_ROWS)
    assert all(per_device * accumulation == 32 for _, _, per_device, accumulation in PUBLISHED_ROWS)
