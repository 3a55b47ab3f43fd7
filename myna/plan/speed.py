"""How long training will take: arithmetic over the rate at which a device does it, corrected by the first steps.

A step's floating-point operations are counted by the memory planner. The rate is assumed (a card's data sheet times a
share, see `cards`) or measured (a matrix product on this machine), so before calibration a prediction may be off by a
factor of two; after it, by what steps differ among themselves. Validation and checkpoints are not in it.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from myna.errors import MynaError
from myna.feed.epoch import bucket_edges
from myna.plan.profiles.cards import find_card

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from myna.audio.augment.chain import Chain
    from myna.feed.batches import Processor
    from myna.feed.epoch import BatchBudget
    from myna.plan.profiles.hardware import HardwareProfile
    from myna.plan.request import Precision
    from myna.samples import Utterance

MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}  # large enough to be bound by arithmetic
MATMUL_SECONDS = 0.3
# Of a matrix product's rate. Measured on two busy CPU cores: 0.5 to 0.9 (Conformers of 144 and 256 channels, wav2vec
# 2.0 of 512). On a card nothing was measured: see SUSTAINED_SHARE_HALF in `cards`.
MATMUL_SHARE = {"cuda": 0.3, "cpu": 0.6}
HALF_SHARE_CPU = 0.5  # of that share: a Conformer's step gains 1.4 times by bf16 where products gain 2.7
BF16_ROWS = 512  # encoder frames of a small micro-batch
BF16_WIDEST = 384  # what is tried for wider models, too, which gain no less
BF16_ROUNDS = 4
WARM_UP_STEPS = 2  # of a run: kernels are chosen, caches filled
TRIED_UTTERANCES = 32


@dataclass(frozen=True, slots=True)
class Rate:
    """Floating-point operations that training does in a second on one device."""

    flops_per_second: float
    source: str  # for people: where it comes from

    def calibrated(self, calibration: Calibration) -> Rate:
        """The rate that would have predicted the measured steps."""
        source = f"measured over {calibration.steps} steps"
        return replace(self, flops_per_second=self.flops_per_second / calibration.factor, source=source)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured over predicted step time."""

    factor: float  # above 1: slower than predicted
    spread: float  # half the distance between the quartiles of the ratios, over the factor
    steps: int

    @classmethod
    def of(cls, measured_seconds: Sequence[float], predicted_seconds: Sequence[float]) -> Calibration | None:
        """The median ratio of a run's first steps, the first two left out; None while there are fewer than three.

        Args:
            measured_seconds: a step each, from the run's beginning.
            predicted_seconds: of the same steps.
        """
        pairs = list(zip(measured_seconds, predicted_seconds, strict=True))[WARM_UP_STEPS:]
        if not pairs:
            return None
        ratios = [measured / predicted for measured, predicted in pairs]
        lower, factor, upper = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
        return cls(factor, (upper - lower) / 2 / factor, len(ratios))


@dataclass(frozen=True, slots=True)
class ProducerRate:
    """How fast one core makes audio ready for the model."""

    audio_seconds_per_second: float
    utterances: int  # that were tried


@dataclass(frozen=True, slots=True)
class SpeedPrediction:
    """Time that a run takes on its device, without validation."""

    step_seconds: float  # of an optimizer step, on average
    steps_per_epoch: int
    epoch_seconds: float
    num_epochs: float
    hours: float  # for all epochs
    audio_seconds_per_second: float  # that the run consumes, all devices together
    rate: Rate  # of one device
    producer: ProducerRate | None  # None: not measured
    producers_needed: int | None  # cores that keep the devices busy

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def sustained_rate(hardware: HardwareProfile, precision: Precision = "fp32") -> Rate | None:
    """What the device is taken to do; None where nothing is known of it and it is not here to be measured."""
    if hardware.device == "cpu":
        return _measured_rate("cpu", precision)
    try:
        card = find_card(hardware.gpu_name or "", hardware.gpu_memory_bytes)
    except MynaError:
        return _measured_rate("cuda", precision) if hardware.is_present else None
    if precision == "fp32":
        share, tflops, peak = "fp32", card.sustained_fp32_tflops, card.peak_fp32_tflops
    else:
        share, tflops, peak = "half precision", card.sustained_half_tflops, card.peak_half_tflops
    return Rate(tflops * 1e12, f"assumed: {tflops / peak:.0%} of the {peak:g} TFLOPS of a {card.name} in {share}")


def predict_speed(
    flops: Callable[[int, float], float],
    rate: Rate,
    durations_seconds: NDArray[np.float64],
    *,
    utterances: int,
    budget: BatchBudget,
    accumulation: int = 1,
    gpu_count: int = 1,
    num_epochs: float = 1,
    max_steps: int = -1,
    audio_hours: float | None = None,
    producer: ProducerRate | None = None,
) -> SpeedPrediction:
    """Add up an epoch's steps, bucket by bucket, as `plan_epoch` cuts them.

    Args:
        flops: of a micro-batch's forward and backward, given clips and seconds (`MemoryModel.flops`).
        rate: of one device.
        durations_seconds: (n,) padded durations that stand for all utterances.
        utterances: how many there are.
        budget: audio of an optimizer step.
        accumulation: micro-batches of a step on each device.
        gpu_count: devices that share a step.
        num_epochs: passes over the dataset.
        max_steps: optimizer steps, in the place of epochs; -1: as many as the epochs have.
        audio_hours: real audio in the dataset, where padded durations are longer.
        producer: rate of one core that prepares audio.
    """
    edges = bucket_edges(durations_seconds, budget.num_buckets)  # (buckets,)
    counts = np.bincount(np.searchsorted(edges, durations_seconds), minlength=len(edges))  # (buckets,)
    steps, seconds = 0.0, 0.0
    for edge, count in zip(edges.tolist(), counts.tolist(), strict=True):
        clips = count * utterances / len(durations_seconds)
        per_step = max(1, int(budget.step_seconds / edge + 1e-9))
        micro_batch = math.ceil(per_step / (accumulation * gpu_count))
        micro_batches = min(accumulation, math.ceil(per_step / (micro_batch * gpu_count)))  # that hold a clip
        steps += clips / per_step
        seconds += clips / per_step * micro_batches * flops(micro_batch, edge) / rate.flops_per_second
    heard = utterances * float(durations_seconds.mean()) if audio_hours is None else 3600 * audio_hours
    consumed = heard / seconds
    if max_steps > 0:
        num_epochs = max_steps / steps
    return SpeedPrediction(
        step_seconds=seconds / steps,
        steps_per_epoch=max(1, math.ceil(steps)),
        epoch_seconds=seconds,
        num_epochs=num_epochs,
        hours=num_epochs * seconds / 3600,
        audio_seconds_per_second=consumed,
        rate=rate,
        producer=producer,
        producers_needed=math.ceil(consumed / producer.audio_seconds_per_second) if producer else None,
    )


def measure_producer(
    utterances: Sequence[Utterance], processor: Processor, augment: Chain | None = None, seed: int = 0
) -> ProducerRate | None:
    """Time the real preparing of real utterances on one core: decoding, augmentation, features, labels.

    Args:
        utterances: of the dataset; an even sample of at most 32 is tried, one of them once more beforehand.
        processor: of the model to train.
        augment: as in training.
        seed: of the run.

    Returns:
        The rate, or None when none of them can be read.
    """
    import torch

    from myna.feed.batches import make_batch

    every = max(1, math.ceil(len(utterances) / TRIED_UTTERANCES))
    sample = utterances[::every]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's process
    try:
        make_batch(sample[:1], processor, augment=augment, seed=seed)  # imports and caches
        started = time.perf_counter()
        batches = [make_batch([utterance], processor, augment=augment, seed=seed) for utterance in sample]
        elapsed = time.perf_counter() - started
    finally:
        torch.set_num_threads(threads)
    heard = sum(batch.audio_seconds for batch in batches)
    return ProducerRate(heard / elapsed, len(sample)) if heard else None


@cache
def bf16_gain(width: int) -> float:
    """How many times faster a feed-forward layer is trained in bf16 than in fp32 on this processor, casts included.

    Args:
        width: of the model.
    """
    import torch

    width = min(width, BF16_WIDEST)
    with torch.random.fork_rng(devices=[]):  # a run's own draws stay what they are
        layer = torch.nn.Sequential(torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width))
        x = torch.rand(BF16_ROWS, width, requires_grad=True)

    def seconds(half: bool) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = layer(x)
        y.float().sum().backward()
        return time.perf_counter() - started

    rounds = [(seconds(False), seconds(True)) for _ in range(BF16_ROUNDS + 1)]  # the first chooses kernels
    full, half = (min(times) for times in zip(*rounds[1:], strict=True))  # the least disturbed of each
    return float(full / half)


def _measured_rate(device: str, precision: Precision) -> Rate:
    """Of square matrix products, one after another for a moment."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = MATMUL_SIZE[device]
    left = torch.rand(size, size, device=device).to(dtype)
    seconds: list[float] = []
    while sum(seconds) < MATMUL_SECONDS or len(seconds) < 4:
        started = time.perf_counter()
        left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    product = 2 * size**3 / statistics.median(seconds[1:])
    share = MATMUL_SHARE[device] * (HALF_SHARE_CPU if device == "cpu" and precision != "fp32" else 1.0)
    return Rate(
        share * product, f"{share:.0%} of the {product / 1e9:.0f} GFLOPS that matrix products in {precision} reach"
    )
