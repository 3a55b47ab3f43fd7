"""Memory of training steps, predicted from fake tensors against measured on this CPU.

Two levels. "tensors": bytes of all storages in use, logged in the same way over the real step. "allocator": what
torch's CPU allocator really handed out over two whole steps, from the profiler's memory events; here the predictions
hold what kernels take for themselves, too. No batch shape measured is one of the shapes traced.

Prints one JSON line for each configuration and one for all of them.
Run: OMP_NUM_THREADS=1 python bench/memory.py [--markdown] [--only wav2vec2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces itself
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import transformers

from myna.models.conformer import ConformerConfig
from myna.models.transformer import TransformerConfig
from myna.plan.memory.fit import TracedMemory
from myna.plan.memory.ledger import SCRATCH
from myna.plan.memory.step import Stage, measure
from myna.plan.memory.subjects import make_batch, make_optimizer
from myna.plan.memory.worker import fitted
from myna.plan.request import LoraSpec, MemoryRequest, ModelSpec, StepSettings

TENSORS_TARGET, MEDIAN_TARGET, UNDER_TARGET = 0.005, 0.01, 0.05
W2V = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "conv_dim": (128,) * 7,
    "num_conv_pos_embeddings": 64,
    "vocab_size": 64,
    "mask_time_prob": 0.05,
    "ctc_loss_reduction": "mean",
    "pad_token_id": 0,
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FRONT_END = {"wav2vec2": ("wav2vec2.feature_extractor",), "hubert": ("hubert.feature_extractor",)}


def spec(model_class: str, config: Any, name: str, **options: Any) -> ModelSpec:
    """A model of the bench."""
    home = type(config).__module__ if type(config).__module__.startswith("myna") else "transformers"
    return ModelSpec(f"{home}:{model_class}", f"{home}:{type(config).__qualname__}", config.to_dict(), name, **options)


def models() -> dict[str, ModelSpec]:
    """Small ones of each family: steps of seconds."""
    tf = transformers
    parakeet = tf.ParakeetEncoderConfig(
        hidden_size=176, num_hidden_layers=4, num_attention_heads=4, intermediate_size=704, subsampling_conv_channels=64
    )
    whisper = tf.WhisperConfig(
        d_model=256,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        vocab_size=8000,
        max_source_positions=1500,
        pad_token_id=7999,
        bos_token_id=7998,
        eos_token_id=7997,
        decoder_start_token_id=7996,
    )
    conformer = ConformerConfig(d_model=192, num_encoder_layers=6, num_heads=4, d_ff=768, vocab_size=128)
    transformer = TransformerConfig(d_model=256, num_encoder_layers=6, num_heads=4, d_ff=1024, vocab_size=128)
    parakeet_ctc = tf.ParakeetCTCConfig(vocab_size=257, pad_token_id=256, encoder_config=parakeet.to_dict())
    return {
        "transformer": spec("TransformerForCTC", transformer, "Transformer-CTC"),
        "conformer": spec("ConformerForCTC", conformer, "Conformer-CTC"),
        "wav2vec2": spec(
            "Wav2Vec2ForCTC", tf.Wav2Vec2Config(**W2V, **STABLE), "wav2vec2", frozen=FRONT_END["wav2vec2"]
        ),
        "hubert": spec("HubertForCTC", tf.HubertConfig(**W2V), "HuBERT", frozen=FRONT_END["hubert"]),
        "whisper": spec("WhisperForConditionalGeneration", whisper, "Whisper"),
        "parakeet": spec("ParakeetForCTC", parakeet_ctc, "Parakeet"),
    }


def requests() -> Iterator[tuple[MemoryRequest, list[tuple[int, float]]]]:
    """What is asked, and the batches to ask it for."""
    plain = StepSettings(device="cpu")
    half = replace(plain, precision="bf16")
    checkpointed = replace(plain, gradient_checkpointing=True)
    accumulating = replace(plain, accumulates=True, optimizer="adamw_torch")
    adafactor = replace(half, optimizer="adafactor")
    unpadded = replace(plain, attention="flash")
    short, long = (5, 3.3), (2, 9.7)
    found = models()
    lora = replace(found["wav2vec2"], lora=LoraSpec(8), frozen=())
    for name, settings, shapes in [
        ("transformer", plain, [short, long]),
        ("transformer", half, [short, (3, 16.4)]),
        ("transformer", checkpointed, [long, (8, 7.9)]),
        ("transformer", replace(accumulating, precision="bf16"), [(6, 6.1)]),
        ("conformer", plain, [short, long]),
        ("conformer", half, [(4, 6.6), (2, 15.5)]),
        ("conformer", replace(checkpointed, precision="bf16"), [long, (6, 5.2)]),
        ("conformer", adafactor, [short]),
        ("wav2vec2", plain, [short, (2, 7.7)]),
        ("wav2vec2", unpadded, [long]),
        ("wav2vec2", half, [(3, 4.4), long]),
        ("wav2vec2", checkpointed, [short, long]),
        ("wav2vec2", accumulating, [(3, 3.9)]),
        ("wav2vec2", adafactor, [(4, 4.4)]),
        ("hubert", plain, [short, long]),
        ("hubert", half, [(3, 5.8)]),
        ("hubert", replace(checkpointed, accumulates=True), [(4, 4.6)]),
        ("hubert", replace(unpadded, optimizer="adafactor"), [long]),
        ("whisper", plain, [(2, 9.7), (3, 21.3)]),
        ("whisper", half, [(2, 14.1)]),
        ("whisper", checkpointed, [(3, 9.7)]),
        ("whisper", replace(accumulating, optimizer="adafactor"), [(2, 6.2)]),
        ("parakeet", plain, [short, long]),
        ("parakeet", half, [(4, 7.1)]),
        ("parakeet", checkpointed, [(3, 12.9)]),
        ("parakeet", replace(accumulating, precision="bf16"), [(3, 7.1)]),
    ]:
        yield MemoryRequest(found[name], settings, labels_per_second=4.0 if name == "whisper" else 8.0), shapes
    yield MemoryRequest(lora, plain), [short, (2, 7.7)]
    yield MemoryRequest(lora, replace(checkpointed, precision="bf16")), [long]
    whisper_lora = replace(found["whisper"], lora=LoraSpec(8))
    yield MemoryRequest(whisper_lora, half, labels_per_second=4.0), [(2, 9.7)]


def handed_out(request: MemoryRequest, clips: int, seconds: float) -> int:
    """Peak of the bytes that torch's CPU allocator gave out, over building a model and two steps."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_steps(request, clips, seconds)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def take_steps(request: MemoryRequest, clips: int, seconds: float) -> None:
    """Two optimizer steps as a trainer takes them, with nothing watching."""
    stage, settings = Stage(request, real=True), request.settings  # for its loss
    batch = make_batch(stage.model, request, clips, seconds)
    optimizer = make_optimizer(stage.model, settings)
    trained = [parameter for parameter in stage.model.parameters() if parameter.requires_grad]
    for _ in range(2):
        for _ in range(2 if settings.accumulates else 1):
            stage.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm, foreach=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def in_tensors(model: TracedMemory, clips: int, seconds: float) -> int:
    """Predicted peak without what kernels take for themselves."""
    sizes = model.sizes(clips, seconds)
    sizes[model.script.kinds == SCRATCH] = 0
    return int(model.script.live_bytes(sizes).max())


def answer(kind: str, request: MemoryRequest, shapes: list[tuple[int, float]]) -> list[Any]:
    """Runs in a process of its own, which begins with nothing but the imports."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "predicted":
        model = fitted(request)
        assert isinstance(model, TracedMemory), "the probes' ledgers differ in more than sizes"
        return [(in_tensors(model, *shape), model.peak(*shape).bytes) for shape in shapes]
    return [(measure(request, *shape).peak(), handed_out(request, *shape)) for shape in shapes]


def in_a_process(*arguments: Any) -> list[Any]:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return list(pool.apply(answer, arguments))


def rows(only: str) -> Iterator[dict[str, Any]]:
    for request, shapes in requests():
        if only not in request.model.name.lower():
            continue
        predicted = in_a_process("predicted", request, shapes)
        for shape, (tensors, allocator) in zip(shapes, predicted, strict=True):
            ((real_tensors, real_allocator),) = in_a_process("measured", request, [shape])
            yield {
                "model": request.model.name + (" LoRA" if request.model.lora else ""),
                "settings": described(request.settings),
                "clips": shape[0],
                "seconds": shape[1],
                "tensors_mb": round(real_tensors / 1e6, 1),
                "tensors_error": round(tensors / real_tensors - 1, 5),
                "allocator_mb": round(real_allocator / 1e6, 1),
                "allocator_error": round(allocator / real_allocator - 1, 5),
            }


def described(settings: StepSettings) -> str:
    words = [settings.precision, {"adamw_torch_fused": "AdamW", "adamw_torch": "AdamW, loop"}.get(settings.optimizer)]
    words[1] = words[1] or settings.optimizer.capitalize()
    words += ["checkpointed"] * settings.gradient_checkpointing + ["accumulating"] * settings.accumulates
    return ", ".join([*words, "unpadded"] if settings.attention == "flash" else words)


def markdown(table: list[dict[str, Any]]) -> str:
    lines = [
        "| model | step | clips x s | tensors, MB | error | allocator, MB | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        lines.append(
            f"| {row['model']} | {row['settings']} | {row['clips']} x {row['seconds']} "
            f"| {row['tensors_mb']} | {row['tensors_error']:+.2%} "
            f"| {row['allocator_mb']} | {row['allocator_error']:+.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/plan.md instead of JSON lines")
    parser.add_argument("--only", default="", help="models whose names contain this")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    started, table = time.perf_counter(), []
    for row in rows(arguments.only):
        table.append(row)
        if not arguments.markdown:
            print(json.dumps(row), flush=True)
    tensors = [abs(row["tensors_error"]) for row in table]
    allocator = [row["allocator_error"] for row in table]
    if arguments.markdown:
        print(markdown(table) + "\n")
    figures = {
        "bench": "memory",
        "configurations": len(table),
        "tensors_error_max": max(tensors),
        "allocator_error_median": round(statistics.median(map(abs, allocator)), 5),
        "allocator_error_most_under": min(allocator),
        "allocator_error_most_over": max(allocator),
        "targets_met": max(tensors) <= TENSORS_TARGET
        and statistics.median(map(abs, allocator)) <= MEDIAN_TARGET
        and min(allocator) >= -UNDER_TARGET,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
