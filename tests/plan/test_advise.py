from __future__ import annotations

import pytest
from plan_cases import Asked, FormulaMemory, card, model

from myna.errors import PlanError
from myna.plan.advise import advise
from myna.plan.evidence import CANDIDATES, RULES
from myna.plan.request import MemoryRequest

SIZES = {"wav2vec2-xls-r-1b": 960, "wav2vec2-xls-r-300m": 315, "whisper-large-v3": 1540, "whisper-small": 240}


def profile(candidate):
    return model(SIZES.get(candidate.name, 30) * 1_000_000, family=candidate.family)


def ask(request: MemoryRequest) -> FormulaMemory:
    return FormulaMemory(request)


def ranking(hours, memory_gb=40, **needs):
    return [advice.family for advice in advise(hours, card(memory_gb), ask=ask, profile=profile, **needs)]


def test_few_hours_of_an_unseen_language_ask_for_self_supervision():
    assert ranking(5, language="unseen")[0] == "wav2vec2"


def test_a_language_that_whisper_knows_asks_for_whisper():
    assert ranking(60, language="rich")[0] == "whisper"


def test_live_results_ask_for_a_model_that_streams():
    assert ranking(300, latency="streaming", language="rich")[0] == "conformer"


def test_many_hours_carry_a_model_from_scratch_past_the_fine_tuned_ones():
    assert ranking(2000, language="unseen")[:1] == ["conformer"]


def test_of_a_family_the_largest_size_that_fits_is_advised():
    class BySize(Asked):
        def __call__(self, request: MemoryRequest) -> FormulaMemory:
            return FormulaMemory(request, 960_000_000 if "1b" in request.model.name else 100_000_000)

    def named(candidate):
        from dataclasses import replace

        found = profile(candidate)
        return replace(found, spec=replace(found.spec, name=candidate.name))

    large = advise(5, card(40), ask=BySize(), profile=named)
    small = advise(5, card(10), ask=BySize(), profile=named)
    assert "wav2vec2-xls-r-1b" in [advice.model for advice in large]
    assert "wav2vec2-xls-r-300m" in [advice.model for advice in small]
    assert "wav2vec2-xls-r-1b" not in [advice.model for advice in small]


def test_what_does_not_fit_comes_last_and_nothing_that_fits_is_an_error():
    class WhisperIsHuge(Asked):
        def __call__(self, request: MemoryRequest) -> FormulaMemory:
            return FormulaMemory(request, 9 * 10**9 if "whisper" in request.model.frozen[0] else 10**8)

    found = advise(60, card(10), language="rich", ask=WhisperIsHuge(), profile=profile)
    assert found[-1].family == "whisper" and not found[-1].fits
    with pytest.raises(PlanError, match="too little"):
        advise(60, card(1), ask=ask, profile=profile)


def test_every_reason_has_a_source_and_every_family_has_reasons():
    assert all(rule.source and rule.because and rule.points for rule in RULES)
    assert {candidate.family for candidate in CANDIDATES} == {rule.family for rule in RULES}
    for advice in advise(30, card(40), ask=ask, profile=profile):
        assert advice.reasons
        assert advice.points == sum(reason.points for reason in advice.reasons)
        assert advice.reasons[0].source in str(advice)


def test_wrong_words_are_named_together():
    with pytest.raises(PlanError) as error:
        advise(0, card(), latency="live", language="vi", ask=ask, profile=profile)  # type: ignore[arg-type]
    assert len(error.value.conflicts) == 3


@pytest.mark.slow
def test_real_models_by_the_quick_formula():
    found = advise(60, card(12), language="poor")
    models = [advice.model for advice in found]
    assert "wav2vec2-xls-r-300m" in models and "wav2vec2-xls-r-1b" not in models
    assert found[0].to_json()["fits"] is True
