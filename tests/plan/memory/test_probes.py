from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plan_specs import SPECS, wav2vec2

from myna.plan.memory import probes
from myna.plan.memory.probes import probe
from myna.plan.memory.step import trace
from myna.plan.request import MemoryRequest, ModelSpec, StepSettings

SHAPES = [(11, 3.83), (2, 5.03), (3, 7.13)]


def request(model: ModelSpec) -> MemoryRequest:
    return MemoryRequest(model, StepSettings(device="cpu", gradient_checkpointing=True), labels_per_second=5.0)


def layers(spec: ModelSpec, **counts: int) -> ModelSpec:
    return replace(spec, config=spec.config | counts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spec",
    [
        wav2vec2(config={"num_hidden_layers": 7}),
        layers(SPECS["whisper"], encoder_layers=6, decoder_layers=8),
        layers(SPECS["conformer"], num_encoder_layers=6),
        SPECS["transformer"],
    ],
    ids=lambda spec: spec.model_class.rpartition(":")[2],
)
def test_sizes_learned_from_a_shallow_copy_are_those_of_the_whole_model(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_whole = []

    def counted(asked: MemoryRequest, clips: int, seconds: float) -> object:
        traced_whole.append(asked == request(spec))
        return trace(asked, clips, seconds)

    monkeypatch.setattr(probes, "trace", counted)
    found = probe(request(spec), SHAPES)
    assert sum(traced_whole) == (3 if spec is SPECS["transformer"] else 1)
    for ledger, shape in zip(found, SHAPES, strict=True):
        expected = trace(request(spec), *shape)
        assert np.array_equal(ledger.order, expected.order)
        assert np.array_equal(ledger.sizes, expected.sizes)
        assert np.array_equal(ledger.kinds, expected.kinds)
        assert ledger.flops == expected.flops
        assert (ledger.clips, ledger.seconds) == shape


@pytest.mark.filterwarnings("ignore")
def test_layers_that_the_copy_lacks_are_traced_in_full() -> None:
    spec = wav2vec2(config={"num_hidden_layers": 6}, frozen=("wav2vec2.encoder.layers.5",))
    for ledger, shape in zip(probe(request(spec), SHAPES[:2]), SHAPES, strict=False):
        assert np.array_equal(ledger.sizes, trace(request(spec), *shape).sizes)


def test_a_size_with_two_fates_is_not_guessed() -> None:
    assert probes._fates([(1, 64), (2, 64)], np.array([64, 128])) == {(1, 64): 64, (2, 64): 128}
    with pytest.raises(probes._UnexplainedSizeError):
        probes._fates([(1, 64), (1, 64)], np.array([64, 128]))


def test_a_size_never_seen_is_kept_if_small_and_refused_if_large() -> None:
    assert [probes._fate({(1, 10): 20}, (1, size)) for size in (10, 30)] == [20, 30]
    with pytest.raises(probes._UnexplainedSizeError):
        probes._fate({(1, 10): 20}, (1, 1 << 20))
