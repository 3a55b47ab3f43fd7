"""The step whose memory is planned, run on fake tensors (`trace`) or on real ones (`measure`) under a ledger."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from myna.models.distillation import divergence, hold_in, taught_by
from myna.plan.memory.ledger import BATCH, GRADIENTS, OPTIMIZER_STATE, PARAMETERS, Ledger, LedgerMode, with_second_step
from myna.plan.memory.subjects import Inputs, build_model, count_parameters, is_whisper, make_batch, make_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from myna.plan.request import MemoryRequest

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
# What decoding may hold: DecodeOptions.max_new_tokens of Whisper and its prompt of four.
DECODED_TOKENS = 229
TEMPERATURE = 2.0  # of a distillation; any number takes the same memory


def trace(request: MemoryRequest, clips: int, seconds: float) -> Ledger:
    """The ledger of a step on fake tensors: nothing is computed and no memory taken.

    For `activity="train"` that is two optimizer steps, since the first begins without optimizer state; for
    `"evaluate"`, one batch scored and decoded.

    For device "cuda" this patches torch for good: call it in a process of its own.

    Raises:
        PlanningUnavailableError: this torch cannot do it.
        ModelError: the model cannot be built.
    """
    return Stage(request).run(clips, seconds)


def measure(request: MemoryRequest, clips: int, seconds: float) -> Ledger:
    """The ledger of the same step run for real, on this machine's CPU; what kernels take for themselves is not in it.

    Raises:
        ModelError: the model cannot be built.
    """
    return Stage(request, real=True).run(clips, seconds)


class Stage:
    """A model on which one step is run; another step would find what the first left behind, such as position tables.

    Args:
        request: what is asked for.
        real: on real tensors and the CPU instead of fake ones.
    """

    def __init__(self, request: MemoryRequest, *, real: bool = False) -> None:
        self.request = request
        self.real = real
        self.device = torch.device("cpu" if real else request.settings.device)
        with torch.device("cpu" if real else "meta"):
            self.model = build_model(request.model, request.settings, real=real)
            self.teacher = build_model(request.teacher, request.settings, real=real) if request.teacher else None
        if self.teacher is not None:
            self.teacher.eval().requires_grad_(False)
            hold_in(self.teacher, HALF.get(request.settings.precision, torch.float32))
        self.models = [self.model] if self.teacher is None else [self.model, self.teacher]
        self.parameters, self.trainable = count_parameters(self.model)
        self._fake_mode: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if not real:
            self._make_fake()
        if request.settings.precision in HALF:
            for model in self.models:
                _autocast(model, self.device.type, HALF[request.settings.precision])

    def _make_fake(self) -> None:
        from myna.plan.memory import fake_cuda

        if self.device.type == "cuda":
            fake_cuda.install()
            self.device = fake_cuda.CUDA
        self._fake_mode = mode = fake_cuda.fake_mode()
        for model in self.models:
            fake_cuda.make_fake(model, mode, self.device)

    def run(self, clips: int, seconds: float) -> Ledger:
        mode = LedgerMode(on_fakes=not self.real)
        with self._attention(), self._fake_mode, _no_collector():
            with self.device:
                batch = make_batch(self.model, self.request, clips, seconds)
            with mode:
                for model in self.models:
                    mode.note((*model.parameters(), *model.buffers()), PARAMETERS)
                mode.note(batch.values(), BATCH)
                if self.request.activity == "evaluate":
                    _evaluate(self.model, batch, mode)
                    return mode.ledger(clips, seconds, self.parameters, self.trainable)
                return self._train(batch, mode, clips, seconds)

    def _attention(self) -> contextlib.AbstractContextManager[None]:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        from myna.plan.memory.fake_cuda import attention_kernel

        return attention_kernel(self.request.settings.attention)

    def _train(self, batch: Inputs, mode: LedgerMode, clips: int, seconds: float) -> Ledger:
        settings = self.request.settings
        optimizer = make_optimizer(self.model, settings)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        start = mode.position
        for number in range(2 if settings.accumulates else 1):
            mode.counting_flops = number == 0
            mode.mark("forward")
            loss = self.loss(batch)
            mode.mark("backward")
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
            mode.note((parameter.grad for parameter in trained if parameter.grad is not None), GRADIENTS)
        mode.counting_flops = False
        mode.mark("optimizer")
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm, foreach=self.device.type == "cuda")
        optimizer.step()
        state = (value for values in optimizer.state.values() for value in values.values())
        mode.note((value for value in state if isinstance(value, Tensor)), OPTIMIZER_STATE)
        optimizer.zero_grad(set_to_none=True)
        gc.collect()  # what only cycles keep alive must not look like memory that stays
        return with_second_step(mode.ledger(clips, seconds, self.parameters, self.trainable), start)

    def loss(self, batch: Inputs) -> Tensor:
        """A micro-batch's loss; with a teacher, the distillation's."""
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                _, said = _losses(self.teacher, _in_full_context(self.teacher, batch))
            taught = taught_by(said, TEMPERATURE)
            del said
        self.model.train()
        loss, logits = _losses(self.model, batch)
        return loss if taught is None else loss + divergence(logits, taught, TEMPERATURE).mean()


def _in_full_context(teacher: PreTrainedModel, batch: Inputs) -> Inputs:
    """A batch as a teacher hears it: Whisper hears 30 s of a clip whose student hears less."""
    if not is_whisper(teacher):
        return batch
    features = batch["input_features"]
    missing = 2 * teacher.config.max_source_positions - features.shape[1]
    return batch | {"input_features": F.pad(features, (0, 0, 0, missing))}


def _autocast(model: PreTrainedModel, device: str, dtype: torch.dtype) -> None:
    """Half precision as accelerate does it for the Trainer: a patched forward, whose outputs come back in fp32."""
    from accelerate.utils import convert_outputs_to_fp32

    model.forward = convert_outputs_to_fp32(torch.autocast(device, dtype)(model.forward))


def _losses(model: PreTrainedModel, batch: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and logits, as Myna's recognisers compute them; the model's own loss for families that Myna lacks.

    In pre-training there are no logits, and losses take their place.
    """
    if is_whisper(model):
        labels = batch["labels"]
        features = batch["input_features"].transpose(1, 2)
        logits = model(input_features=features, decoder_input_ids=labels[:, :-1].clone(), use_cache=False).logits
        targets = labels[:, 1:].clone()
        by_token = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        return by_token.view_as(targets).sum(dim=1).sum() / targets.numel(), logits
    output = model(**batch)
    losses = output.losses if "losses" in output else output.loss
    return losses.sum() / len(batch[model.main_input_name]), output.get("logits", losses)


@torch.no_grad()
def _evaluate(model: PreTrainedModel, batch: Inputs, mode: LedgerMode) -> None:
    """Score a batch, then decode it freely."""
    mode.mark("evaluate")
    model.eval()
    _losses(model, batch)
    if hasattr(model, "quantizer"):  # in pre-training nothing is decoded
        return
    inputs = {name: tensor for name, tensor in batch.items() if "label" not in name}
    if model.config.is_encoder_decoder:
        _decode_with_cache(model, inputs)
    else:
        model(**inputs).logits.float().log_softmax(dim=-1)


def _decode_with_cache(model: PreTrainedModel, inputs: Inputs) -> None:
    """The two largest moments of `generate` and what follows it, instead of hundreds of small ones.

    The last token, when the cache of keys and values is full; and one pass over all tokens for their confidences.
    """
    if is_whisper(model):
        inputs = {"input_features": inputs["input_features"].transpose(1, 2)}
    mask = {name: tensor for name, tensor in inputs.items() if name == "attention_mask"}
    given = {"encoder_outputs": model.get_encoder()(**inputs), **mask}
    sound = inputs[model.main_input_name]
    longest = getattr(model.config, "max_target_positions", None) or DECODED_TOKENS
    tokens = torch.ones(len(sound), min(DECODED_TOKENS, longest) - 1, dtype=torch.long, device=sound.device)
    cache = model(**given, decoder_input_ids=tokens, use_cache=True).past_key_values
    last = model(**given, decoder_input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)
    last.logits.float().softmax(dim=-1)
    del cache, last
    model(**given, decoder_input_ids=tokens, use_cache=False).logits.float().softmax(dim=-1)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """The garbage collector frees cycles at moments of its own choosing, which no ledger could repeat.

    Frozen, what existed before costs the collections in the midst of it nothing.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
