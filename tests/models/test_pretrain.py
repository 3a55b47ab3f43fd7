"""Encoders in pre-training: what is drawn when, what a folder keeps, and what fine-tuning takes from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_cases import OURS, TEXTS, speech_batch, write_base
from safetensors.torch import load_file

from myna.config import load_config
from myna.errors import ConfigError, ModelError
from myna.models.build import build_recognizer, load_recognizer, processor_files
from myna.models.processors import build_processor, load_processor
from myna.models.recognizer import DecodeOptions
from myna.samples import Batch, RefusalReason, Utterance

OBJECTIVE = ["training.objective=pretrain", "training.metric_for_best_model=loss", "pretrain.mask_time_length=3"]
OBJECTIVE += ["pretrain.num_codevectors_per_group=8", "pretrain.codevector_dim=16", "pretrain.proj_codevector_dim=16"]
FAMILIES = ("conformer", "transformer", "wav2vec2")


def build(family: str, tmp_path, shared, *overrides: str):
    """An encoder in pre-training; that of wav2vec 2.0 goes on from a checkpoint."""
    settings = [f"model.{size}" for size in OURS]
    if family == "wav2vec2":
        if not (tmp_path / "base").exists():
            write_base(tmp_path / "base", family, shared)
        settings = [f"model.pretrained={tmp_path / 'base'}"]
    torch.manual_seed(0)
    config = load_config([], [*OBJECTIVE, f"model.family={family}", *settings, *overrides])
    return build_recognizer(config, [])


def rows_of(batch: Batch, rows: slice) -> Batch:
    names = ("utterance_ids", "features", "feature_lengths", "labels", "label_lengths", "weights")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


def uneven(batch: Batch) -> Batch:
    """The same batch with a clip that is shorter than the others."""
    lengths = batch.feature_lengths.clone()
    lengths[1] = lengths[1] * 2 // 3
    features = batch.features.clone()
    features[1, lengths[1] :] = 0
    return replace(batch, features=features, feature_lengths=lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_do_not_depend_on_how_a_batch_is_split(family, tmp_path, shared):
    recognizer = build(family, tmp_path, shared)
    recognizer.model.train()
    batch = uneven(speech_batch(recognizer))
    grads = []
    for parts in ([slice(0, 4)], [slice(0, 1), slice(1, 2), slice(2, 4)]):
        recognizer.begin_step(0, 7, 100)
        recognizer.model.zero_grad()
        losses = [recognizer.losses(recognizer.model, rows_of(batch, part)) for part in parts]
        items = [recognizer.items(rows_of(batch, part)) for part in parts]
        (torch.cat(losses).sum() / torch.cat(items).sum()).backward()
        grads.append({name: p.grad.clone() for name, p in recognizer.model.named_parameters() if p.requires_grad})
        grads[-1]["losses"], grads[-1]["items"] = torch.cat(losses), torch.cat(items)
        assert int(recognizer.tally.masked) == int(grads[-1]["items"].sum())
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_steps_draw_anew_and_validation_always_the_same(tmp_path, shared):
    recognizer = build("conformer", tmp_path, shared)
    batch = speech_batch(recognizer)

    def losses() -> list[float]:
        return recognizer.losses(recognizer.model, batch).tolist()

    first, again = losses(), losses()
    recognizer.begin_step(0, 1, 100)
    one, temperature = losses(), recognizer.model.quantizer.temperature
    recognizer.begin_step(0, 2, 100)
    two = losses()
    recognizer.begin_step(0, 1, 100)
    assert losses() == one != two
    recognizer.begin_validation()
    assert losses() == first == again != one
    assert temperature == pytest.approx(2 * 0.25 ** (1 / 70))
    recognizer.begin_step(0, 90, 100)
    assert recognizer.model.quantizer.temperature == 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_takes_exactly_the_encoder(family, tmp_path, shared):
    recognizer = build(family, tmp_path, shared)
    recognizer.save_pretrained(tmp_path / "pretrained")
    config = load_config([], [f"model.family={family}", f"model.pretrained={tmp_path / 'pretrained'}"])
    tuned = build_recognizer(config, TEXTS)
    saved = load_file(tmp_path / "pretrained" / "model.safetensors")
    state = tuned.model.state_dict()
    fresh = {name for name in state if name not in saved}
    assert {name.rpartition(".")[0] for name in fresh} == {"lm_head" if family == "wav2vec2" else "head"}
    for name in state.keys() - fresh:
        assert torch.equal(state[name], saved[name]), name
    assert saved.keys() - state.keys() == {name for name in saved if name.partition(".")[0] in NOT_KEPT}
    assert tuned.processor.tokenizer.covers(TEXTS)
    assert not hasattr(tuned.model.config, "num_negatives") or family == "wav2vec2"
    tuned.save_pretrained(tmp_path / "tuned")
    decoded = load_recognizer(tmp_path / "tuned").decode(speech_batch(tuned), DecodeOptions())
    assert len(decoded) == 4


NOT_KEPT = {"quantizer", "project_hid", "project_q", "latent_norm", "mask_embedding"}


def test_adapters_work_on_a_pretrained_encoder(tmp_path, shared):
    build("conformer", tmp_path, shared).save_pretrained(tmp_path / "pretrained")
    settings = [f"model.pretrained={tmp_path / 'pretrained'}", "adapter.kind=lora", "adapter.rank=4"]
    adapted = build_recognizer(load_config([], settings), TEXTS)
    adapted.save_pretrained(tmp_path / "adapted")
    again = load_recognizer(tmp_path / "adapted")
    assert torch.equal(again.model.head.weight, adapted.model.get_submodule("base_model.model.head").weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_pretraining_goes_on_from_its_own_folder(family, tmp_path, shared):
    recognizer = build(family, tmp_path, shared)
    recognizer.save_pretrained(tmp_path / "first")
    override = "pretrain.num_codevectors_per_group=9"  # the codebook that there is keeps its size
    config = load_config([], [*OBJECTIVE, f"model.family={family}", f"model.pretrained={tmp_path / 'first'}", override])
    again = build_recognizer(config, [])
    batch = speech_batch(recognizer)
    assert torch.equal(again.losses(again.model.eval(), batch), recognizer.losses(recognizer.model.eval(), batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_producers_make_the_same_processor(family, tmp_path, shared):
    recognizer = build(family, tmp_path, shared, "pretrain.mask_time_length=6")
    again = load_processor(processor_files(recognizer))
    spoken = Utterance("0", "", "abc", "abc", 0.16, "train")
    assert again.labels(spoken) == []
    assert again.refusal(replace(spoken, duration_seconds=5.0)) is None
    shortest = next(n / 100 for n in range(1, 100) if again.refusal(replace(spoken, duration_seconds=n / 100)) is None)
    assert again.front_end.frames_in(shortest) == 7  # a span of six, and one to hear
    reason, detail = again.refusal(replace(spoken, duration_seconds=shortest - 0.01))
    assert reason is RefusalReason.TOO_SHORT and "received 6" in detail


def test_a_folder_without_words_is_refused_as_a_recogniser(tmp_path, shared):
    recognizer = build("transformer", tmp_path, shared)
    recognizer.save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ModelError, match=r"pre-trained without transcripts.*\n?.*Fine-tune it first"):
        load_recognizer(tmp_path / "pretrained")
    with pytest.raises(ModelError, match="in pre-training"):
        recognizer.decode(speech_batch(recognizer), DecodeOptions())


def test_relatives_with_objectives_of_their_own_are_refused(tmp_path, shared):
    write_base(tmp_path / "base", "hubert", shared)
    with pytest.raises(ModelError, match=r"can be pre-trained: .*wav2vec2; received hubert"):
        build("wav2vec2", tmp_path, shared)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.family=whisper", "Whisper learns from texts alone"),
        ("adapter.kind=lora", "trains whole encoders"),
        ("model.freeze_encoder=true", "needs model.freeze_encoder=false"),
        ("model.freeze_layers=2", "needs model.freeze_encoder=false"),
        ("training.learning_rates.encoder=0.1", "has one learning rate"),
        ("distillation.teacher=runs/other", "no tokens that a teacher could"),
        ("training.metric_for_best_model=wer", "needs training.metric_for_best_model=loss"),
        ("pretrain.codevector_dim=15", "a multiple of pretrain.num_codevector_groups=2"),
        ("pretrain.min_gumbel_temperature=3", "at most pretrain.max_gumbel_temperature=2"),
    ],
)
def test_what_does_not_go_with_it_is_refused_at_once(override, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config([], [*OBJECTIVE, "model.pretrained=somewhere", override])


@pytest.mark.parametrize("family", ("conformer", "wav2vec2"))
def test_recordings_without_words_are_not_learned_from_by_ctc(family, tmp_path, shared):
    settings = [f"model.family={family}"]
    if family == "wav2vec2":
        settings.append(f"model.pretrained={write_base(tmp_path / 'base', family, shared)}")
    processor = build_processor(load_config([], settings), TEXTS)
    silent = Utterance("0", "", "", "", 5.0, "train")
    assert processor.refusal(silent)[0] is RefusalReason.EMPTY_TRANSCRIPT
    assert processor.refusal(replace(silent, transcript="abc", text="abc")) is None


def test_masked_frames_are_not_heard(tmp_path, shared):
    """What lies under the mask reaches the targets and nothing else."""
    recognizer = build("transformer", tmp_path, shared)
    model = recognizer.model.eval()
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 20, 32))).float()
    model.subsampling.forward = lambda features: features
    heard = []
    model.encode = lambda x, lengths: heard.append(x) or x
    drawn = {"positions": torch.tensor([[4, 5]]), "counts": torch.tensor([2]), "negatives": torch.tensor([[[1], [0]]])}
    model(latents, torch.tensor([80]), **drawn)
    assert torch.equal(heard[0][0, 4], model.mask_embedding) and torch.equal(heard[0][0, 5], model.mask_embedding)
    others = [frame for frame in range(20) if frame not in (4, 5)]
    assert torch.equal(heard[0][0, others], latents[0, others])
