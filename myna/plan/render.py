"""A plan as a tree of plain text: what was given, what was chosen and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from myna.plan.memory.model import MemoryModel
    from myna.plan.optimal_config import OptimalConfig
    from myna.plan.training_plan import MemoryPrediction, TrainingPlan

    Leaf = tuple[str, str, str]  # name, value, reason

SECTIONS: dict[str, tuple[str, ...]] = {
    "Batch": (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "effective_batch_size",
    ),
    "Memory optimisations": ("gradient_checkpointing", "fp16", "bf16"),
    "Data processing": (
        "dataloader_num_workers",
        "max_audio_duration_seconds",
        "audio_chunk_length_seconds",
        "use_streaming",
        "cache_dataset",
    ),
    "Training": (
        "num_train_epochs",
        "learning_rate",
        "warmup_steps",
        "eval_steps",
        "save_steps",
        "logging_steps",
    ),
    "Safety": ("memory_reserve_gb", "max_memory_usage_percent"),
}


def tree(config: OptimalConfig) -> str:
    """All values of a configuration under headings; with a plan behind it also what they were chosen from, and why."""
    plan = config.plan
    sections: list[tuple[str, list[Leaf]]] = []
    if plan is not None:
        sections += [("Hardware", _hardware(plan)), ("Dataset", _dataset(plan)), ("Model", _model(plan))]
    for title, keys in SECTIONS.items():
        leaves = [(key, _value(getattr(config, key)), _reason(config, key)) for key in keys]
        if plan is not None:
            leaves += _more(plan, title)
        sections.append((title, leaves))
    lines = ["Training plan"]
    for number, (title, leaves) in enumerate(sections):
        is_last = number == len(sections) - 1
        lines.append(f"{'└' if is_last else '├'}── {title}")
        lines += [f"{' ' if is_last else '│'}   {line}" for line in _leaves(leaves)]
    if plan is not None:
        lines += [f"Note: {note}" for note in plan.notes]
    return "\n".join(lines)


def gib(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def needs(model: MemoryModel, clips: int, seconds: float, limit_bytes: int) -> str:
    """What a micro-batch takes, in words that say why it does not fit where it does not."""
    peak = model.peak(clips, seconds).bytes
    words = f"{'' if model.exact else 'at most '}{gib(peak)} of {gib(limit_bytes)}"
    if peak <= limit_bytes and not model.fits(clips, seconds, limit_bytes):
        words += ", too much with the gaps between its blocks"
    return words


def _leaves(leaves: Sequence[Leaf]) -> list[str]:
    names = max(len(name) for name, _, _ in leaves)
    values = max(len(value) for _, value, _ in leaves)
    lines = []
    for number, (name, value, reason) in enumerate(leaves):
        branch = "└──" if number == len(leaves) - 1 else "├──"
        lines.append(f"{branch} {name:<{names}}  {value:<{values}}  {reason}".rstrip())
    return lines


def _reason(config: OptimalConfig, key: str) -> str:
    if config.plan is None:
        return ""
    choice = config.plan.choices[key]
    if choice.value != getattr(config, key):
        return f"set by you, unchecked; planned {_value(choice.value)}: {choice.reason}"
    return choice.reason


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hardware(plan: TrainingPlan) -> list[Leaf]:
    hardware = plan.hardware
    capability = ".".join(str(part) for part in hardware.compute_capability or ())
    leaves = [
        (
            "gpu",
            f"{hardware.gpu_count} x {hardware.gpu_name}" if hardware.gpu_count else "none",
            " ".join(
                part
                for part in (
                    f"compute capability {capability};" if capability else "",
                    f"trains in {', '.join(hardware.dtypes)}",
                )
                if part
            ),
        ),
        ("cpu", f"{hardware.cpu_cores:g} cores", hardware.cpu_name),
        ("ram", gib(hardware.ram_bytes), f"{gib(hardware.ram_available_bytes)} free, container limits respected"),
        ("disk", gib(hardware.disk_free_bytes), "free"),
    ]
    if hardware.gpu_count:
        leaves.insert(1, ("gpu memory", gib(hardware.gpu_memory_bytes), f"{gib(hardware.gpu_available_bytes)} free"))
    if not hardware.is_present:
        leaves.insert(0, ("what if", "yes", "planned for hardware that is not in this machine"))
    return leaves


def _dataset(plan: TrainingPlan) -> list[Leaf]:
    dataset = plan.dataset
    spread = f"shortest {dataset.min_seconds:.2f} s, 95 % up to {dataset.p95_seconds:.2f} s, "
    return [
        ("utterances", f"{dataset.utterances:,}", f"{dataset.measured:,} measured" if dataset.is_sampled else ""),
        ("speech", f"{dataset.total_hours:.2f} h", f"{gib(dataset.size_bytes)} stored" if dataset.size_bytes else ""),
        ("mean length", f"{dataset.mean_seconds:.2f} s", f"{spread}longest {dataset.max_seconds:.2f} s"),
    ]


def _model(plan: TrainingPlan) -> list[Leaf]:
    model = plan.model
    trained = f"{model.trainable / 1e6:.1f} M trained; {model.layers} layers of width {model.hidden_size}"
    return [
        ("model", model.name, model.family),
        ("parameters", f"{model.parameters / 1e6:.1f} M", trained),
    ]


def _more(plan: TrainingPlan, title: str) -> list[Leaf]:
    """What is planned beside the keys that are saved."""
    if title == "Batch":
        feed = plan.feed
        value = f"{feed.step_seconds:g} s in {feed.feed_accumulation}"
        return [("Myna's own feed", value, feed.reason)]
    if title == "Memory optimisations":
        return [(key, _value(choice.value), choice.reason) for key, choice in plan.step_choices.items()]
    if title == "Training":
        return _time(plan)
    if title == "Safety":
        return [
            ("training memory", gib(plan.memory.reserved_bytes), _memory(plan.memory)),
            ("memory of the feed", gib(plan.feed.memory.reserved_bytes), _memory(plan.feed.memory)),
            ("evaluation memory", gib(plan.evaluation_memory.reserved_bytes), _memory(plan.evaluation_memory)),
        ]
    return []


def _time(plan: TrainingPlan) -> list[Leaf]:
    speed = plan.speed
    if speed is None:
        return [("predicted time", "unknown", "nothing is known of the speed of this card")]
    step = f"{speed.step_seconds:.2f} s a step of the feed, {speed.epoch_seconds / 3600:.2f} h an epoch"
    leaves = [
        ("predicted time", f"{speed.hours:.1f} h", f"{step}; {speed.rate.source}"),
        ("audio consumed", f"{speed.audio_seconds_per_second:.0f} s/s", "seconds of speech in a second"),
    ]
    if speed.producers_needed is not None and speed.producer is not None:
        rate = f"a core prepares {speed.producer.audio_seconds_per_second:.0f} s of audio in a second"
        leaves.append(("producers needed", str(speed.producers_needed), rate))
    return leaves


def _memory(memory: MemoryPrediction) -> str:
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:4]
    parts = ", ".join(f"{name.replace('_', ' ')} {gib(count)}" for name, count in largest)
    basis = "predicted" if memory.traced else "at most"
    return (
        f"{basis} for {memory.clips} clips of {memory.seconds:.2f} s, of {gib(memory.limit_bytes)} that may be used; "
        f"tensors {gib(memory.peak_bytes)} at the peak ({memory.phase}): {parts}"
    )
