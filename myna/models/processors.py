"""Processors by family name: from a configuration, from a pretrained model, from files sent here."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from myna.audio.features import LogMel, ParakeetLogMel
from myna.errors import ModelError
from myna.models.audio_context import context_to_learn
from myna.models.conformer import ConformerConfig, ConformerForCTC
from myna.models.ctc import CTCProcessor
from myna.models.ctc_decode import WORD_BOUNDARY
from myna.models.folders import CONFIG_FILE, find_base, find_model, is_adapter, refuse_adapter
from myna.models.metadata import read_json
from myna.models.parakeet_processor import ParakeetProcessor, read_tokenizer
from myna.models.pretrain_recognizer import PretrainProcessor, is_pretraining
from myna.models.tokenizer import TextTokenizer
from myna.models.transformer import TransformerConfig, TransformerForCTC
from myna.models.wav2vec2 import MODEL_TYPES
from myna.models.wav2vec2_processor import Wav2Vec2Processor, read_vocabulary, vocabulary_tokenizer
from myna.models.whisper_processor import WhisperProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from myna.config import Config
    from myna.models.audio_context import AudioContext
    from myna.models.ctc_model import CTCConfig, CTCModel
    from myna.samples import RefusalReason, Utterance

    WordProcessor = CTCProcessor | WhisperProcessor | Wav2Vec2Processor | ParakeetProcessor
    AnyProcessor = WordProcessor | PretrainProcessor
    Refuse = Callable[[Utterance], tuple[RefusalReason, str] | None]

CTC_MODELS: dict[str, tuple[type[CTCConfig], type[CTCModel]]] = {
    "conformer": (ConformerConfig, ConformerForCTC),
    "transformer": (TransformerConfig, TransformerForCTC),
}
FAMILY_OF_MODEL_TYPE = {config.model_type: family for family, (config, _) in CTC_MODELS.items()}
FAMILY_OF_MODEL_TYPE |= {"whisper": "whisper", "parakeet_ctc": "parakeet", **dict.fromkeys(MODEL_TYPES, "wav2vec2")}
NO_WORDS = TextTokenizer.of_pieces([])  # of an encoder in pre-training

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
    features = config.features
    if config.model.family == "parakeet":
        factor = config.model.subsampling_factor
        return ParakeetProcessor(_train_tokenizer(config, train_texts), ParakeetLogMel(features.n_mels), factor)
    if config.model.family not in CTC_MODELS:
        raise ModelError(
            f"expected model.pretrained for {config.model.family}; received nothing",
            "Set it to a folder or a hub name, such as openai/whisper-tiny.",
        )
    return CTCProcessor(_train_tokenizer(config, train_texts), _log_mel(config))


def load_processor(files: dict[str, bytes], language: str = "", context: AudioContext | None = None) -> AnyProcessor:
    """A processor from the files that `processor_files` gave.

    Args:
        files: by name.
        language: of Whisper's prompts; "" takes each utterance's own.
        context: what Whisper hears of a clip; None is 30 s.

    Raises:
        ModelError: they are not those of a processor.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file_name, content in files.items():
            (folder / Path(file_name).name).write_bytes(content)
        family = model_family(folder)
        if family == "whisper":
            return WhisperProcessor.from_pretrained(folder, language, context)
        if family == "parakeet":
            return ParakeetProcessor.from_pretrained(folder)
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
        return WhisperProcessor.from_pretrained(folder, config.model.language, context_to_learn(config.model))
    if family == "wav2vec2":
        return Wav2Vec2Processor.from_pretrained(folder, _wav2vec2_tokenizer(config, folder, train_texts))
    if family == "parakeet":
        return ParakeetProcessor.from_pretrained(folder, _parakeet_tokenizer(config, folder, train_texts))
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


def _parakeet_tokenizer(config: Config, folder: Path, train_texts: Sequence[str]) -> TextTokenizer:
    """As `_wav2vec2_tokenizer`."""
    found = read_tokenizer(folder)
    if found is not None and found[0].covers(train_texts):
        return found[0]
    logger.warning("The vocabulary of %s lacks characters of the training texts: a new one is learned.", folder)
    return _train_tokenizer(config, train_texts)


def _train_tokenizer(config: Config, train_texts: Sequence[str]) -> TextTokenizer:
    return TextTokenizer.train(train_texts, config.tokenizer.kind, config.tokenizer.vocab_size)
