"""Recognisers by family name: from a configuration, from a pretrained model, from a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from myna.audio.features import LogMel
from myna.errors import ModelError
from myna.models.adapters import add_adapters, merge_saved, quantization, save_model_config
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.ctc_decode import WORD_BOUNDARY
from myna.models.folders import CONFIG_FILE, base_identity, find_base, find_model, is_adapter, refuse_adapter
from myna.models.front_end import freeze_front_end
from myna.models.metadata import read_json, read_metadata
from myna.models.parts import freeze_part, frozen_names
from myna.models.pretrain_recognizer import (
    PretrainProcessor,
    PretrainRecognizer,
    is_pretraining,
    refuse_pretraining,
)
from myna.models.pretraining import load_to_pretrain, prepare_config
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.models.wav2vec2 import MODEL_TYPES, Wav2Vec2Recognizer
from myna.models.wav2vec2_processor import Wav2Vec2Processor, read_vocabulary, vocabulary_tokenizer
from myna.models.weights import load_weights
from myna.models.whisper import WhisperRecognizer
from myna.models.whisper_processor import WhisperProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import BitsAndBytesConfig

    from myna.config import Config
    from myna.models.ctc_model import CTCConfig, CTCModel
    from myna.samples import RefusalReason, Utterance

    WordProcessor = CTCProcessor | WhisperProcessor | Wav2Vec2Processor
    AnyProcessor = WordProcessor | PretrainProcessor
    AnyRecognizer = CTCRecognizer | WhisperRecognizer | Wav2Vec2Recognizer | PretrainRecognizer
    Refuse = Callable[[Utterance], tuple[RefusalReason, str] | None]

TEXT_RULES = "1"  # of myna.text.normalize; changes when its results do
CTC_MODELS: dict[str, tuple[type[CTCConfig], type[CTCModel]]] = {
    "conformer": (ConformerConfig, ConformerForCTC),
    "transformer": (TransformerConfig, TransformerForCTC),
}
FAMILY_OF_MODEL_TYPE = {config.model_type: family for family, (config, _) in CTC_MODELS.items()}
FAMILY_OF_MODEL_TYPE |= {"whisper": "whisper", **dict.fromkeys(MODEL_TYPES, "wav2vec2")}
HEAD = ("head.weight", "head.bias")
NO_WORDS = TextTokenizer.of_pieces([])  # of an encoder in pre-training
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
    if config.training.objective == "pretrain":
        return _pretrain_processor(config)
    if config.model.pretrained:
        return _pretrained_processor(config, find_model(config.model.pretrained), train_texts)
    if config.model.family not in CTC_MODELS:
        raise ModelError(
            f"expected model.pretrained for {config.model.family}; received nothing",
            "Set it to a folder or a hub name, such as openai/whisper-tiny.",
        )
    return CTCProcessor(_train_tokenizer(config, train_texts), _log_mel(config))


def build_recognizer(config: Config, train_texts: Sequence[str]) -> AnyRecognizer:
    """The recogniser to train: with fresh weights, or those of `model.pretrained`, adapted and frozen as asked.

    A pretrained CTC model whose tokenizer lacks characters of the texts gets a new tokenizer and head; the head keeps
    the rows of the pieces that both tokenizers have.

    Raises:
        As `build_processor`.
        MissingExtraError: QLoRA is asked for without bitsandbytes.
    """
    processor = build_processor(config, train_texts)
    metadata = {"family": config.model.family, "language": config.data.language, "text_rules": TEXT_RULES}
    if isinstance(processor, PretrainProcessor):
        return _pretrain_recognizer(config, processor, metadata)
    if isinstance(processor, CTCProcessor) and not config.model.pretrained:
        model_class, model_config = ctc_model_of(config, processor.tokenizer.vocab_size)
        return CTCRecognizer(processor, model_class(model_config), metadata)
    folder = find_model(config.model.pretrained)
    recognizer = _pretrained_recognizer(config, processor, folder, metadata)
    frozen = frozen_names(recognizer.model, encoder=config.model.freeze_encoder, layers=config.model.freeze_layers)
    if config.adapter.kind == "none":
        for name in frozen:
            freeze_part(recognizer.model, name)
    else:
        identity = base_identity(config.model.pretrained, folder)
        recognizer.metadata |= identity
        recognizer.model = add_adapters(recognizer.model, config.adapter, base=identity["base_model"], frozen=frozen)
    return recognizer


def _pretrained_recognizer(
    config: Config, processor: WordProcessor, folder: Path, metadata: dict[str, str]
) -> AnyRecognizer:
    """The recogniser whose weights are in a folder, in 4 bits if adapters want that."""
    settings = config.model
    in_4_bits = quantization(config.adapter, read_json(folder / CONFIG_FILE, "a model's configuration")["model_type"])
    if isinstance(processor, WhisperProcessor):
        metadata["language"] = settings.language  # "" leaves each utterance its own
        return WhisperRecognizer.from_pretrained(folder, settings.language, metadata, in_4_bits)
    if isinstance(processor, Wav2Vec2Processor):
        return Wav2Vec2Recognizer.to_train(
            folder,
            processor,
            metadata,
            freeze_front_end=settings.freeze_front_end,
            front_end_by_clip=settings.front_end_by_clip is True,  # `auto`: the planner may turn it on
            mask_time_prob=settings.mask_time_prob,
            quantization=in_4_bits,
        )
    old, new = TextTokenizer.load(folder).pieces, processor.tokenizer.pieces
    if old != new and not is_pretraining(folder):
        logger.warning(
            "The tokenizer of %s lacks characters of the training texts: a new one of %d tokens takes its place; "
            "the encoder and %d rows of the head are kept.",
            folder,
            len(new),
            len(set(old) & set(new)),
        )
    return CTCRecognizer(processor, _load_ctc(settings.family, folder, processor.tokenizer, in_4_bits), metadata)


def _pretrain_recognizer(config: Config, processor: PretrainProcessor, metadata: dict[str, str]) -> PretrainRecognizer:
    """An encoder to pre-train, with fresh weights or those of `model.pretrained`."""
    if config.model.pretrained:
        model = load_to_pretrain(find_model(config.model.pretrained), config.pretrain)
        if config.model.family == "wav2vec2" and config.model.freeze_front_end:
            freeze_front_end(model)
    else:
        _, model_config = ctc_model_of(config, NO_WORDS.vocab_size)
        model = prepare_config(model_config, config.pretrain)(model_config)
    return PretrainRecognizer(processor, model, config.pretrain, metadata)


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
            Myna knows, or a hub name. Adapters are merged into their base.

    Raises:
        ModelError: there is no such model, it is of another kind, or the base of its adapters is not to be found.
    """
    folder = find_model(model)
    if is_adapter(folder):
        return _load_adapted(folder)
    refuse_pretraining(folder)
    metadata = read_metadata(folder)
    family = model_family(folder)
    if family == "whisper":
        recognizer = WhisperRecognizer.from_pretrained(folder, metadata.get("language", ""))
        recognizer.metadata = {"family": family, **metadata}
        return recognizer
    if family == "wav2vec2":
        return Wav2Vec2Recognizer.from_pretrained(folder, {"family": family, **metadata})
    processor = CTCProcessor.from_pretrained(folder)
    return CTCRecognizer(processor, load_weights(CTC_MODELS[family][1], folder), {"family": family, **metadata})


def _load_adapted(folder: Path) -> AnyRecognizer:
    """A recogniser from adapters, merged into their base in full precision."""
    base = find_base(folder)
    own = folder if (folder / CONFIG_FILE).is_file() else base  # peft alone saves neither configuration nor processor
    family = model_family(own)
    metadata = {"family": family, **read_metadata(folder)}
    recognizer: AnyRecognizer
    if family == "whisper":
        recognizer = WhisperRecognizer.from_pretrained(base, metadata.get("language", ""), metadata)
        recognizer.processor = WhisperProcessor.from_pretrained(own, metadata.get("language", ""))
    elif family == "wav2vec2":
        recognizer = Wav2Vec2Recognizer.to_train(base, Wav2Vec2Processor.from_pretrained(own), metadata)
    else:
        processor = CTCProcessor.from_pretrained(own)
        recognizer = CTCRecognizer(processor, _load_ctc(family, base, processor.tokenizer), metadata)
    recognizer.model = merge_saved(recognizer.model, folder)
    return recognizer


def processor_files(recognizer: AnyRecognizer) -> dict[str, bytes]:
    """What `load_processor` needs to make the recogniser's processor again, elsewhere: files by name, no weights."""
    with TemporaryDirectory() as folder:
        recognizer.processor.save_pretrained(folder)
        save_model_config(recognizer.model, folder)
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
        kind = Wav2Vec2Processor if family == "wav2vec2" else CTCProcessor
        processor = kind.from_pretrained(folder)
        return PretrainProcessor.from_pretrained(folder, processor) if is_pretraining(folder) else processor


def feasibility(config: Config) -> Callable[[Sequence[str]], Refuse]:
    """What `prepare` needs to refuse recordings that the configured model cannot learn from.

    Returns:
        A function of the normalised training texts that gives a function from an utterance to a refusal or None.
    """
    return lambda train_texts: build_processor(config, train_texts).refusal


def model_family(folder: Path) -> str:
    """The family of the model in a folder, from its config.json.

    Raises:
        ModelError: it is not one of ours.
    """
    if is_adapter(folder) and not (folder / CONFIG_FILE).is_file():
        folder = find_base(folder)
    values = read_json(folder / CONFIG_FILE, "a model's configuration with model_type")
    model_type = values.get("model_type", "none")
    if model_type not in FAMILY_OF_MODEL_TYPE:
        known = ", ".join(FAMILY_OF_MODEL_TYPE)
        raise ModelError(
            f"{folder}: expected model_type {known}; received {model_type}", "Pass a model of these families."
        )
    return FAMILY_OF_MODEL_TYPE[model_type]


def _log_mel(config: Config) -> LogMel:
    features = config.features
    return LogMel(
        n_mels=features.n_mels,
        n_fft=features.n_fft,
        hop_length=features.hop_length,
        sample_rate_hz=features.sample_rate,
        normalize=features.normalize,
        dynamic_range_db=features.dynamic_range_db,
    )


def _pretrain_processor(config: Config) -> PretrainProcessor:
    """The front end of what is pre-trained; it has no words."""
    front_end: CTCProcessor | Wav2Vec2Processor
    if not config.model.pretrained:
        front_end = CTCProcessor(NO_WORDS, _log_mel(config))
    else:
        folder = find_model(config.model.pretrained)
        if _family_as_configured(config, folder) == "wav2vec2":
            front_end = Wav2Vec2Processor.from_pretrained(folder, NO_WORDS)
        else:
            front_end = CTCProcessor(NO_WORDS, CTCProcessor.from_pretrained(folder).log_mel)
    return PretrainProcessor(front_end, config.pretrain.mask_time_length + 1)


def _family_as_configured(config: Config, folder: Path) -> str:
    refuse_adapter(folder)
    family = model_family(folder)
    if family != config.model.family:
        raise ModelError(
            f"{folder}: expected a model of family {config.model.family}; received {family}",
            f"Set model.family={family}, or another model.pretrained.",
        )
    return family


def _pretrained_processor(config: Config, folder: Path, train_texts: Sequence[str]) -> AnyProcessor:
    family = _family_as_configured(config, folder)
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


def _load_ctc(
    family: str, folder: Path, tokenizer: TextTokenizer, in_4_bits: BitsAndBytesConfig | None = None
) -> CTCModel:
    """One of our CTC models with a head for the tokenizer: fresh on an encoder that was pre-trained only."""
    config_class, model_class = CTC_MODELS[family]
    model: CTCModel
    if is_pretraining(folder):
        saved = config_class.from_pretrained(folder)
        sizes = {name: getattr(saved, name) for name in (*SIZES, "n_mels", "conv_kernel_size") if hasattr(saved, name)}
        own = config_class(vocab_size=tokenizer.vocab_size, **sizes)
        model = load_weights(model_class, folder, may_miss=HEAD, config=own, quantization=in_4_bits)
        return model
    model = load_weights(model_class, folder, quantization=in_4_bits)
    _fit_head(model, TextTokenizer.load(folder).pieces, tokenizer.pieces)
    return model


def _fit_head(model: CTCModel, old: Sequence[str], new: Sequence[str]) -> None:
    """Give the head a row for each token: its own where it has the token, else a new one."""
    import torch

    if old == new:
        return
    old_head = model.head
    model.set_vocab_size(len(new))
    with torch.no_grad():
        for index, piece in enumerate(new):
            if piece in old:
                model.head.weight[index] = old_head.weight[old.index(piece)]
                model.head.bias[index] = old_head.bias[old.index(piece)]
