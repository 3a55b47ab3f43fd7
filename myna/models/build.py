"""Recognisers by family name: from a configuration, from a pretrained model, from a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import ParakeetForCTC

from myna.models.adapters import add_adapters, merge_saved, quantization, save_model_config
from myna.models.audio_context import context_to_learn, learned_context
from myna.models.ctc import CTCProcessor, CTCRecognizer
from myna.models.folders import CONFIG_FILE, base_identity, find_base, find_model, is_adapter
from myna.models.front_end import freeze_front_end
from myna.models.metadata import read_json, read_metadata
from myna.models.parakeet import ParakeetRecognizer, parakeet_config
from myna.models.parakeet_processor import ParakeetProcessor
from myna.models.parts import freeze_part, frozen_names, keep_layers
from myna.models.pretrain_recognizer import (
    PretrainProcessor,
    PretrainRecognizer,
    is_pretraining,
    refuse_pretraining,
)
from myna.models.pretraining import load_to_pretrain, prepare_config
from myna.models.processors import CTC_MODELS, NO_WORDS, build_processor, model_family
from myna.models.tokenizer import TextTokenizer
from myna.models.wav2vec2 import Wav2Vec2Recognizer
from myna.models.wav2vec2_processor import Wav2Vec2Processor
from myna.models.weights import load_weights
from myna.models.whisper import WhisperRecognizer
from myna.models.whisper_processor import WhisperProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

    from myna.config import Config
    from myna.models.ctc_model import CTCModel
    from myna.models.processors import WordProcessor

    AnyRecognizer = CTCRecognizer | WhisperRecognizer | Wav2Vec2Recognizer | ParakeetRecognizer | PretrainRecognizer

TEXT_RULES = "1"  # of myna.text.normalize; changes when its results do
HEAD = ("head.weight", "head.bias")
SIZES = ("d_model", "num_encoder_layers", "num_heads", "d_ff", "dropout", "chunk_frames", "left_chunks")

logger = logging.getLogger(__name__)


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
    if not config.model.pretrained:
        return _fresh_recognizer(config, processor, metadata)
    folder = find_model(config.model.pretrained)
    recognizer = _pretrained_recognizer(config, processor, folder, metadata)
    keep_layers(recognizer.model, encoder=config.model.keep_encoder_layers, decoder=config.model.keep_decoder_layers)
    frozen = frozen_names(recognizer.model, encoder=config.model.freeze_encoder, layers=config.model.freeze_layers)
    if config.adapter.kind == "none":
        for name in frozen:
            freeze_part(recognizer.model, name)
    else:
        identity = base_identity(config.model.pretrained, folder)
        recognizer.metadata |= identity
        recognizer.model = add_adapters(recognizer.model, config.adapter, base=identity["base_model"], frozen=frozen)
    return recognizer


def _fresh_recognizer(config: Config, processor: WordProcessor, metadata: dict[str, str]) -> AnyRecognizer:
    """The recogniser with weights that know nothing."""
    model_class, model_config = ctc_model_of(config, processor.tokenizer.vocab_size)
    model: Any = model_class(model_config)
    if isinstance(processor, ParakeetProcessor):
        return ParakeetRecognizer(processor, model, metadata)
    assert isinstance(processor, CTCProcessor)  # others begin with a pretrained model
    return CTCRecognizer(processor, model, metadata)


def _pretrained_recognizer(
    config: Config, processor: WordProcessor, folder: Path, metadata: dict[str, str]
) -> AnyRecognizer:
    """The recogniser whose weights are in a folder, in 4 bits if adapters want that."""
    settings = config.model
    in_4_bits = quantization(config.adapter, read_json(folder / CONFIG_FILE, "a model's configuration")["model_type"])
    if isinstance(processor, WhisperProcessor):
        metadata["language"] = settings.language  # "" leaves each utterance its own
        return WhisperRecognizer.from_pretrained(
            folder, settings.language, metadata, in_4_bits, context_to_learn(settings)
        )
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
    if isinstance(processor, ParakeetProcessor):
        return ParakeetRecognizer.from_pretrained(folder, processor, metadata, in_4_bits)
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


def ctc_model_of(config: Config, vocab_size: int) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Class and configuration of the CTC model that a configuration trains from scratch.

    Args:
        config: of the run.
        vocab_size: tokens, the blank included.
    """
    settings = config.model
    if settings.family == "parakeet":
        return ParakeetForCTC, parakeet_config(config, vocab_size)
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
        return WhisperRecognizer.from_pretrained(
            folder,
            metadata.get("language", ""),
            {"family": family, **metadata},
            context=learned_context(folder, metadata),
        )
    if family == "wav2vec2":
        return Wav2Vec2Recognizer.from_pretrained(folder, {"family": family, **metadata})
    if family == "parakeet":
        return ParakeetRecognizer.from_pretrained(folder, None, {"family": family, **metadata})
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
        recognizer.processor = WhisperProcessor.from_pretrained(
            own, metadata.get("language", ""), learned_context(folder, metadata)
        )
    elif family == "wav2vec2":
        recognizer = Wav2Vec2Recognizer.to_train(base, Wav2Vec2Processor.from_pretrained(own), metadata)
    elif family == "parakeet":
        recognizer = ParakeetRecognizer.from_pretrained(base, ParakeetProcessor.from_pretrained(own), metadata)
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
