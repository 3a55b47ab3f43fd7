"""Recognisers by family name: from a configuration, from a pretrained model, from a folder."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from myna.audio.features import LogMel
from myna.errors import ModelError
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.ctc_decode import WORD_BOUNDARY
from myna.models.recognizer import read_metadata
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.models.wav2vec2 import MODEL_TYPES, Wav2Vec2Recognizer
from myna.models.wav2vec2_processor import Wav2Vec2Processor, read_vocabulary, vocabulary_tokenizer
from myna.models.weights import load_weights
from myna.models.whisper import WhisperRecognizer
from myna.models.whisper_processor import WhisperProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from myna.config import Config
    from myna.models.ctc_model import CTCConfig, CTCModel
    from myna.samples import RefusalReason, Utterance

    AnyProcessor = CTCProcessor | WhisperProcessor | Wav2Vec2Processor
    AnyRecognizer = CTCRecognizer | WhisperRecognizer | Wav2Vec2Recognizer
    Refuse = Callable[[Utterance], tuple[RefusalReason, str] | None]

TEXT_RULES = "1"  # of myna.text.normalize; changes when its results do
MAX_CONFIG_BYTES = 1_000_000
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
HUB_FILES = ("*.json", "*.safetensors", "*.txt")
CTC_MODELS: dict[str, tuple[type[CTCConfig], type[CTCModel]]] = {
    "conformer": (ConformerConfig, ConformerForCTC),
    "transformer": (TransformerConfig, TransformerForCTC),
}
FAMILY_OF_MODEL_TYPE = {config.model_type: family for family, (config, _) in CTC_MODELS.items()}
FAMILY_OF_MODEL_TYPE |= {"whisper": "whisper", **dict.fromkeys(MODEL_TYPES, "wav2vec2")}
SIZES = ("d_model", "num_encoder_layers", "num_heads", "d_ff", "dropout", "chunk_frames", "left_chunks")

logger = logging.getLogger(__name__)


def build_processor(config: Config, train_texts: Sequence[str]) -> AnyProcessor:
    """Front end and tokenizer of the model that the configuration asks for.

    Args:
        config: of the run.
        train_texts: normalised texts of the training split; the CTC families learn their tokenizer from them.

    Raises:
        ModelError: `model.pretrained` cannot be loaded or is of another family.
        DataError, ConfigError: no tokenizer can be learned from the texts.
    """
    if config.model.pretrained:
        return _pretrained_processor(config, find_model(config.model.pretrained), train_texts)
    if config.model.family not in CTC_MODELS:
        raise ModelError(
            f"expected model.pretrained for {config.model.family}; received nothing",
            "Set it to a folder or a hub name, such as openai/whisper-tiny.",
        )
    features = config.features
    log_mel = LogMel(
        n_mels=features.n_mels,
        n_fft=features.n_fft,
        hop_length=features.hop_length,
        sample_rate_hz=features.sample_rate,
        normalize=features.normalize,
        dynamic_range_db=features.dynamic_range_db,
    )
    return CTCProcessor(_train_tokenizer(config, train_texts), log_mel)


def build_recognizer(config: Config, train_texts: Sequence[str]) -> AnyRecognizer:
    """The recogniser to train: with fresh weights, or those of `model.pretrained`.

    A pretrained CTC model whose tokenizer lacks characters of the texts gets a new tokenizer and head; the head keeps
    the rows of the pieces that both tokenizers have.

    Raises:
        As `build_processor`.
    """
    processor = build_processor(config, train_texts)
    settings = config.model
    metadata = {"family": settings.family, "language": config.data.language, "text_rules": TEXT_RULES}
    if isinstance(processor, WhisperProcessor):
        metadata["language"] = settings.language  # "" leaves each utterance its own
        return WhisperRecognizer.from_pretrained(
            find_model(settings.pretrained),
            settings.language,
            metadata=metadata,
            freeze_encoder=settings.freeze_encoder,
            freeze_layers=settings.freeze_layers,
        )
    if isinstance(processor, Wav2Vec2Processor):
        return Wav2Vec2Recognizer.to_train(
            find_model(settings.pretrained),
            processor,
            metadata,
            freeze_front_end=settings.freeze_front_end,
            front_end_by_clip=settings.front_end_by_clip is True,  # `auto`: the planner may turn it on
            mask_time_prob=settings.mask_time_prob,
        )
    if settings.pretrained:
        return CTCRecognizer(processor, _pretrained_ctc_model(config, processor), metadata)
    model_class, model_config = ctc_model_of(config, processor.tokenizer.vocab_size)
    return CTCRecognizer(processor, model_class(model_config), metadata)


def ctc_model_of(config: Config, vocab_size: int) -> tuple[type[CTCModel], CTCConfig]:
    """Class and configuration of the CTC model of ours that a configuration trains from scratch.

    Args:
        config: of the run.
        vocab_size: tokens, the blank included.
    """
    settings = config.model
    config_class, model_class = CTC_MODELS[settings.family]
    sizes = {name: getattr(settings, name) for name in SIZES}
    if settings.family == "conformer":
        sizes["conv_kernel_size"] = settings.conv_kernel_size
    return model_class, config_class(vocab_size=vocab_size, n_mels=config.features.n_mels, **sizes)


def load_recognizer(model: str | Path) -> AnyRecognizer:
    """A recogniser that was saved.

    Args:
        model: a run (its best checkpoint, else its newest), a checkpoint, any `from_pretrained` folder of a family that
            Myna knows, or a hub name.

    Raises:
        ModelError: there is no such model, or it is of another kind.
    """
    folder = find_model(model)
    metadata = read_metadata(folder)
    family = model_family(folder)
    if family == "whisper":
        recognizer = WhisperRecognizer.from_pretrained(folder, metadata.get("language", ""))
        recognizer.metadata = {"family": family, **metadata}
        return recognizer
    if family == "wav2vec2":
        return Wav2Vec2Recognizer.from_pretrained(folder, {"family": family, **metadata})
    processor = CTCProcessor.from_pretrained(folder)
    return CTCRecognizer(processor, _load_ctc_model(folder, family), {"family": family, **metadata})


def processor_files(recognizer: AnyRecognizer) -> dict[str, bytes]:
    """What `load_processor` needs to make the recogniser's processor again, elsewhere: files by name, no weights."""
    with TemporaryDirectory() as folder:
        recognizer.processor.save_pretrained(folder)
        recognizer.model.config.save_pretrained(folder)
        if isinstance(recognizer, WhisperRecognizer):
            recognizer.model.generation_config.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def load_processor(files: dict[str, bytes], language: str = "") -> AnyProcessor:
    """A processor from the files that `processor_files` gave.

    Args:
        files: by name.
        language: of Whisper's prompts; "" takes each utterance's own.

    Raises:
        ModelError: they are not those of a processor.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file_name, content in files.items():
            (folder / Path(file_name).name).write_bytes(content)
        family = model_family(folder)
        if family == "whisper":
            return WhisperProcessor.from_pretrained(folder, language)
        if family == "wav2vec2":
            return Wav2Vec2Processor.from_pretrained(folder)
        return CTCProcessor.from_pretrained(folder)


def feasibility(config: Config) -> Callable[[Sequence[str]], Refuse]:
    """What `prepare` needs to refuse recordings that the configured model cannot learn from.

    Returns:
        A function of the normalised training texts that gives a function from an utterance to a refusal or None.
    """
    return lambda train_texts: build_processor(config, train_texts).refusal


def find_model(model: str | Path) -> Path:
    """The folder that holds a model's files.

    Args:
        model: as for `load_recognizer`; a hub name is fetched, or taken from the hub's cache.

    Raises:
        ModelError: there is none.
    """
    path = Path(model)
    if path.is_dir():
        newest_first = sorted(path.glob("checkpoint-*"), key=_checkpoint_step, reverse=True)
        for folder in (path, path / "best", *newest_first):
            if (folder / "config.json").is_file():
                return folder.resolve()
        raise ModelError(
            f"{model}: expected a run, a checkpoint or a `from_pretrained` folder; there is no config.json in it",
            "Pass a folder that `myna train` wrote, or one with config.json and model.safetensors.",
        )
    if path.exists() or path.is_absolute() or not HUB_NAME.fullmatch(str(model)):
        raise ModelError(
            f"{model}: expected a folder or a hub name; there is no such folder", "Check the spelling of the path."
        )
    return _fetch(str(model))


def model_family(folder: Path) -> str:
    """The family of the model in a folder, from its config.json.

    Raises:
        ModelError: it is not one of ours.
    """
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES:,} bytes")
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: expected a model's configuration with model_type; received {error!r}",
            "Pass a `from_pretrained` folder.",
        ) from error
    if model_type not in FAMILY_OF_MODEL_TYPE:
        known = ", ".join(FAMILY_OF_MODEL_TYPE)
        raise ModelError(
            f"{folder}: expected model_type {known}; received {model_type}", "Pass a model of these families."
        )
    return FAMILY_OF_MODEL_TYPE[model_type]


def _pretrained_processor(config: Config, folder: Path, train_texts: Sequence[str]) -> AnyProcessor:
    family = model_family(folder)
    if family != config.model.family:
        raise ModelError(
            f"{folder}: expected a model of family {config.model.family}; received {family}",
            f"Set model.family={family}, or another model.pretrained.",
        )
    if family == "whisper":
        return WhisperProcessor.from_pretrained(folder, config.model.language)
    if family == "wav2vec2":
        return Wav2Vec2Processor.from_pretrained(folder, _wav2vec2_tokenizer(config, folder, train_texts))
    processor = CTCProcessor.from_pretrained(folder)
    if processor.tokenizer.covers(train_texts):
        return processor
    return CTCProcessor(_train_tokenizer(config, train_texts), processor.log_mel)


def _wav2vec2_tokenizer(config: Config, folder: Path, train_texts: Sequence[str]) -> TextTokenizer:
    """The checkpoint's own if it covers the texts; a new one takes over the rows of the head that both have."""
    vocabulary = read_vocabulary(folder)
    if {char.replace(" ", WORD_BOUNDARY) for char in set().union(*train_texts)} <= vocabulary.keys():
        return vocabulary_tokenizer(folder, vocabulary)
    if vocabulary:
        logger.warning("The vocabulary of %s lacks characters of the training texts: a new one is learned.", folder)
    return _train_tokenizer(config, train_texts)


def _train_tokenizer(config: Config, train_texts: Sequence[str]) -> TextTokenizer:
    return TextTokenizer.train(train_texts, config.tokenizer.kind, config.tokenizer.vocab_size)


def _pretrained_ctc_model(config: Config, processor: CTCProcessor) -> CTCModel:
    import torch

    folder = find_model(config.model.pretrained)
    model = _load_ctc_model(folder, config.model.family)
    old = TextTokenizer.load(folder).pieces
    new = processor.tokenizer.pieces
    if old == new:
        return model
    old_head = model.head
    model.set_vocab_size(len(new))
    kept = [(index, old.index(piece)) for index, piece in enumerate(new) if piece in old]
    with torch.no_grad():
        for index, old_index in kept:
            model.head.weight[index] = old_head.weight[old_index]
            model.head.bias[index] = old_head.bias[old_index]
    logger.warning(
        "The tokenizer of %s lacks characters of the training texts: a new one of %d tokens takes its place; "
        "the encoder and %d rows of the head are kept.",
        folder,
        len(new),
        len(kept),
    )
    return model


def _load_ctc_model(folder: Path, family: str) -> CTCModel:
    model: CTCModel = load_weights(CTC_MODELS[family][1], folder)
    return model


def _checkpoint_step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Some repositories hold the weights twice, the second time as fp32 shards.
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), ignore_patterns=["*fp32*"]))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ModelError(
            f"{name}: expected a folder or a model on the hub; received {str(error).splitlines()[0] or error!r}",
            "Check the name and the network, or pass a folder.",
        ) from error
