"""The configuration of a run: one typed section per stage, from YAML files and `key=value` overrides.

Every mistake is reported at once, with the nearest key that exists. Training keys carry the names of
`transformers.TrainingArguments`. Parts of Myna never see this object: entry functions hand them plain values.
"""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from myna.audio.augment.chain import AnyTransform
from myna.conflicts import conflicts
from myna.data.prepare import PrepareSettings
from myna.errors import ConfigError
from myna.sections import AdapterConfig, Auto, DistillationConfig, PretrainConfig, Section, TtqConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_CONFIG_BYTES = 1_000_000
Count = Annotated[int, Field(ge=1)]
Family = Literal["conformer", "transformer", "whisper", "wav2vec2", "parakeet"]


class _YamlLoader(yaml.SafeLoader):
    """Only `true` and `false` are truth values, as in YAML 1.2: `no` is a word, and the code of Norwegian."""


_BOOL = "tag:yaml.org,2002:bool"
_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_YamlLoader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class ColumnNames(Section):
    """Names of a source's columns where they differ from the usual ones; empty means: find it."""

    audio: str = ""
    transcript: str = ""
    duration: str = ""
    offset: str = ""
    split: str = ""
    speaker_id: str = ""
    language: str = ""


class DataConfig(Section):
    """Which recordings, and which of them are usable."""

    db: str = "catalog.db"
    version: str = ""  # dataset version ID (or a unique prefix); "" is the newest
    shards: str = ""  # train: folder or URL that `myna shard` wrote; recordings come from there instead of from files
    language: str = ""  # ISO 639 code for rows that name none
    transcripts: Literal["required", "optional"] = "required"  # optional: rows without one come in, for pre-training
    columns: ColumnNames = ColumnNames()
    min_duration_seconds: float = Field(default=0.5, ge=0)
    max_duration_seconds: float = Field(default=30.0, gt=0, le=600)
    max_clipped_share: float = Field(default=0.05, ge=0, le=1)  # samples at full scale
    min_peak_dbfs: float = Field(default=-60.0, le=0)  # a clip that never rises above this is silent
    valid_ratio: float = Field(default=0.1, ge=0, lt=1)  # used only when the source names no splits
    test_ratio: float = Field(default=0.1, ge=0, lt=1)
    split_seed: int = 0


class FeaturesConfig(Section):
    """Log-mel features of the CTC families; Whisper brings its own."""

    sample_rate: int = Field(default=16_000, ge=8_000, le=48_000)  # Hz
    n_mels: int = Field(default=80, ge=16, le=256)
    n_fft: int = Field(default=400, ge=64)  # samples: 25 ms at 16 kHz
    hop_length: int = Field(default=160, ge=16)  # samples: 10 ms at 16 kHz
    # "utterance" scales each mel bin over the clip; "level" the clip as a whole, for clips of a single word
    normalize: Literal["utterance", "level"] = "utterance"
    dynamic_range_db: float = Field(default=80, ge=20, le=100)  # below a clip's loudest point is silence


class TokenizerConfig(Section):
    """Output units of the CTC families, learned from the training split alone."""

    kind: Literal["char", "bpe"] = "char"
    vocab_size: int = Field(default=256, ge=8)  # bpe only


class ModelConfig(Section):
    """Which recogniser. Sizes are those of the CTC families; a pretrained model brings its own."""

    family: Family = "conformer"
    pretrained: str = ""  # a run, a checkpoint, a local `from_pretrained` folder or a hub name to start from
    d_model: int = Field(default=256, ge=8)
    num_encoder_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=4, ge=1)
    d_ff: int = Field(default=1024, ge=8)
    conv_kernel_size: int = Field(default=31, ge=3)  # conformer and parakeet, odd
    dropout: float = Field(default=0.1, ge=0, lt=1)
    chunk_frames: int = Field(default=0, ge=0)  # encoder frames an attention chunk sees; 0 is full context
    left_chunks: int = Field(default=-1, ge=-1)  # earlier chunks it may look back on; -1 is all
    keep_encoder_layers: int = Field(default=0, ge=0)  # of a pretrained model: so many, evenly spaced; 0 is all
    keep_decoder_layers: int = Field(default=0, ge=0)  # whisper: likewise
    subsampling_factor: Literal[2, 4, 8] = 8  # parakeet: 10 ms frames of one encoder frame
    freeze_encoder: bool = False  # of a pretrained model: only its decoder or its head learns
    freeze_layers: int = Field(default=0, ge=0)  # of a pretrained model: lowest encoder layers kept as they are
    freeze_front_end: bool = True  # wav2vec2: its convolutions
    front_end_by_clip: bool | Auto = "auto"  # wav2vec2: run them one clip at a time, which takes far less memory
    mask_time_prob: float = Field(default=0.05, ge=0, lt=1)  # wav2vec2: share of encoder frames masked in training
    language: str = ""  # whisper: language of prompts and decoding; "" takes each utterance's own
    audio_context: Literal["auto", "full"] = "full"  # whisper: `auto` hears clips, not 30 s, if that costs no accuracy
    audio_context_margin_seconds: float = Field(default=0.2, ge=0.1, le=30)  # whisper: silence after a clip


class LearningRates(Section):
    """Rates of parts that learn at another than `training.learning_rate`."""

    encoder: Annotated[float, Field(gt=0)] | None = None
    decoder: Annotated[float, Field(gt=0)] | None = None  # whisper
    head: Annotated[float, Field(gt=0)] | None = None  # CTC


class TrainingConfig(Section):
    """How to train; the names and meanings of `transformers.TrainingArguments`, but for the ones noted."""

    output_dir: str = "runs/run"
    # Ours: to write down speech, or to learn from speech alone (self-supervised, wav2vec 2.0), transcripts unread
    objective: Literal["transcribe", "pretrain"] = "transcribe"
    num_train_epochs: float = Field(default=20, gt=0)
    max_steps: int = -1
    effective_batch_size: Count = 32  # ours: clips an optimizer step holds on average; `auto` splits it as memory wants
    per_device_train_batch_size: Count | Auto = "auto"  # clips of the longest bucket; shorter hold more
    per_device_eval_batch_size: Count | Auto = "auto"  # likewise
    gradient_accumulation_steps: Count | Auto = "auto"
    # Ours: longer utterances are set aside; `auto`: those that do not fit into memory even alone, where they are few
    max_duration_seconds: Annotated[float, Field(gt=0)] | Auto = "auto"
    learning_rate: float = Field(default=5e-4, gt=0)
    learning_rates: LearningRates = LearningRates()  # ours: of parts that learn slower or faster
    weight_decay: float = Field(default=0.01, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.98, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "one_cycle"] = "cosine"
    warmup_steps: float = Field(default=0.1, ge=0)  # below 1 a share of all steps, else a count
    bf16: bool | Auto = "auto"
    fp16: bool | Auto = "auto"
    gradient_checkpointing: bool | Auto = "auto"
    torch_compile: bool | Auto = "auto"
    optim: Literal["adamw_torch_fused", "adamw_torch"] | Auto = "auto"
    fsdp: bool = False  # parameters, gradients and optimizer state spread over ranks
    seed: int = Field(default=0, ge=0)
    dataloader_num_workers: Annotated[int, Field(ge=0)] | Auto = "auto"
    logging_steps: int = Field(default=10, ge=1)
    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    eval_steps: int = Field(default=500, ge=1)
    include_validation: bool = False  # ours: the last fit, on the training and the validation split together
    eval_on_start: bool = False  # the untouched start takes part in the choice of the best checkpoint
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    save_steps: int = Field(default=500, ge=1)
    save_every_epochs: int = Field(default=1, ge=1)  # ours: with save_strategy=epoch
    save_total_limit: int = Field(default=2, ge=1)  # the best checkpoint is kept besides
    metric_for_best_model: Literal["wer", "cer", "loss"] = "wer"
    early_stopping_patience: int = Field(default=0, ge=0)  # evaluations without a gain; 0 never stops early
    stop_at: Literal["never", "milestone", "hopeless"] = "never"  # ours: all of ttq.milestones reached, or out of reach
    safety_margin: float = Field(default=0.85, gt=0, le=1)  # ours: share of the memory that may be planned with
    max_retries: int = Field(default=5, ge=0, le=20)  # ours: how often the same clips may run out of memory
    report_to: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)


class FeedConfig(Section):
    """How batches are cut from an epoch, and where they wait for the trainer."""

    home: Literal["local", "redis"] = "local"  # processes of this machine, or a Redis that any host can fill
    redis_url: str = ""  # "" is $MYNA_REDIS_URL, else redis://localhost:6379; `embedded` starts a private server
    run: str = ""  # name under which producers find the run; "" is that of the run folder
    producers: int = Field(default=0, ge=0, le=1000)  # redis: processes that the run starts here; others may join
    max_memory_gb: float = Field(default=49, gt=0)  # of all batches that wait (GiB)
    lease_seconds: float = Field(default=10, ge=1, le=3600)  # redis: a dead producer's batch is made anew after this
    expire_seconds: int = Field(default=3600, ge=60)  # redis: what a run leaves there vanishes after this
    patience_seconds: float = Field(default=600, ge=1)  # redis: how long a server may be away
    num_buckets: int = Field(default=30, ge=1, le=1000)  # lengths that batches are grouped by
    # Padded audio of an optimizer step, all devices together; `auto` takes it from the batch sizes
    step_seconds: Annotated[float, Field(gt=0)] | Auto = "auto"


class DecodeConfig(Section):
    """How hypotheses are searched for."""

    beam_width: int = Field(default=1, ge=1, le=500)  # 1 is greedy
    max_new_tokens: int = Field(default=225, ge=1, le=440)  # whisper


class Config(Section):
    """Everything a run can be told."""

    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    augment: list[AnyTransform] = Field(default_factory=list)
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    distillation: DistillationConfig = DistillationConfig()
    pretrain: PretrainConfig = PretrainConfig()
    feed: FeedConfig = FeedConfig()
    training: TrainingConfig = TrainingConfig()
    ttq: TtqConfig = TtqConfig()
    decode: DecodeConfig = DecodeConfig()

    def prepare_settings(self) -> PrepareSettings:
        """The data section as `prepare` takes it."""
        values = self.data.model_dump(exclude={"db", "version", "shards", "columns"})
        columns = {role: name for role, name in self.data.columns.model_dump().items() if name}
        return PrepareSettings(columns=columns, **values)

    def to_yaml(self) -> str:
        """The whole configuration as YAML that `load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(layers: Sequence[str] = (), overrides: Sequence[str] = ()) -> Config:
    """Merge presets and YAML files, left to right, then `section.key=value` overrides, and check it all.

    Args:
        layers: preset names (`myna/presets/*.yaml` without the ending) or paths of YAML files.
        overrides: `training.num_train_epochs=5`; values are read as YAML.

    Raises:
        ConfigError: with every mistake found.
    """
    mistakes: list[str] = []
    tree: dict[str, Any] = {}
    for layer in layers:
        _merge(tree, _read_layer(layer, mistakes))
    for override in overrides:
        _merge(tree, _parse_override(override, mistakes))
    mistakes += _unknown_keys(tree, Config)
    config: Config | None = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        mistakes += _describe(detail for detail in error.errors() if not _is_told(detail))
    if config is not None:
        mistakes += conflicts(config)
    if config is None or mistakes:
        raise ConfigError(mistakes)
    return config


def preset_names() -> list[str]:
    """Names of the recipes that ship with Myna."""
    folder = resources.files("myna") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read_layer(layer: str, mistakes: list[str]) -> dict[str, Any]:
    preset = resources.files("myna") / "presets" / f"{layer}.yaml"
    path = Path(layer)
    if path.suffix in (".yaml", ".yml") or path.is_file():  # a folder may share a preset's name
        if not path.is_file():
            mistakes.append(f"--config {layer}: expected a YAML file; there is none")
            return {}
        if path.stat().st_size > MAX_CONFIG_BYTES:
            mistakes.append(f"--config {layer}: expected at most {MAX_CONFIG_BYTES:,} bytes of YAML")
            return {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            mistakes.append(f"--config {layer}: expected a file that may be read; received {error.strerror}")
            return {}
    elif "/" not in layer and preset.is_file():
        text = preset.read_text(encoding="utf-8")
    else:
        choices = ", ".join(preset_names())
        mistakes.append(
            f"--config {layer}: expected a YAML file or a preset ({choices}){_did_you_mean(layer, preset_names())}"
        )
        return {}
    return _parse_yaml(text, f"--config {layer}", mistakes)


def _parse_yaml(text: str, origin: str, mistakes: list[str]) -> dict[str, Any]:
    try:
        tree = _read_yaml(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-99-99
        mistakes.append(f"{origin}: expected YAML; received {' '.join(str(error).split())}")
        return {}
    if not isinstance(tree, dict):
        mistakes.append(f"{origin}: expected sections such as `training:`; received a {type(tree).__name__}")
        return {}
    return tree


def _parse_override(override: str, mistakes: list[str]) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        mistakes.append(f"{override}: expected section.key=value, such as training.num_train_epochs=5")
        return {}
    parts = key.strip().split(".")
    is_text = _field_type(parts) is str
    try:
        value = _read_yaml(text if is_text else _as_yaml_number(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if is_text and not isinstance(value, str):
        value = text  # a version of digits alone, a folder named by a year, nothing at all
    for part in reversed(parts):
        value = {part: value}
    return value if isinstance(value, dict) else {}


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_YamlLoader)


def _field_type(parts: Sequence[str]) -> Any:
    """What the schema expects at a key; None when there is no such key."""
    kind: Any = Config
    for part in parts:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or part not in kind.model_fields:
            return None
        kind = kind.model_fields[part].annotation
    return kind


def _as_yaml_number(text: str) -> str:
    """YAML 1.1 reads 3e-4 as text; people mean a number."""
    try:
        return repr(float(text)) if "e" in text.lower() else text
    except ValueError:
        return text


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _unknown_keys(tree: dict[str, Any], section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    fields = section.model_fields
    for key, value in tree.items():
        if key not in fields:
            yield f"{prefix}{key}: no such key{_did_you_mean(str(key), [*fields, *_elsewhere(str(key), prefix)])}"
            continue
        inner = fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, dict):
            yield from _unknown_keys(value, inner, f"{prefix}{key}.")


def _elsewhere(key: str, prefix: str) -> list[str]:
    """The same key in another section, since people forget which one it lives in."""
    names = []
    for section, field in Config.model_fields.items():
        inner = field.annotation
        if (
            isinstance(inner, type)
            and issubclass(inner, BaseModel)
            and f"{section}." != prefix
            and key in inner.model_fields
        ):
            names.append(f"{section}.{key}")
    return names


def _did_you_mean(word: str, choices: Sequence[str]) -> str:
    exact = [choice for choice in choices if choice.endswith(f".{word}")]
    near = exact or difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _is_told(detail: Any) -> bool:
    """Whether it is a key that `_unknown_keys` has named already; it does not look into lists."""
    return detail["type"] == "extra_forbidden" and all(isinstance(part, str) for part in detail["loc"])


def _describe(details: Iterable[Any]) -> list[str]:
    """pydantic's errors as `key: expected ...; received ...`, one for a key that may be of several kinds."""
    expected: dict[str, list[str]] = {}
    received = {}
    for detail in details:
        parts = [str(part) for part in detail["loc"]]
        if _field_type(parts) is None and _field_type(parts[:-1]) is not None:
            parts.pop()  # which of the kinds it was held against
        key = ".".join(parts)
        expected.setdefault(key, []).append(_expectation(detail["msg"]))
        received[key] = detail["input"]
    return [f"{key}: expected {' or '.join(wanted)}; received {received[key]!r}" for key, wanted in expected.items()]


def _expectation(message: str) -> str:
    message = message.removeprefix("Input should be ").removeprefix("Value error, ")
    return message.replace("Extra inputs are not permitted", "a known key")
