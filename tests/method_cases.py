"""What tests of training methods share: a tiny pretrained model of each family, and batches it can learn from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCTC,
    Data2VecAudioConfig,
    GenerationConfig,
    HubertConfig,
    ParakeetCTCConfig,
    ParakeetForCTC,
    SEWConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from myna.config import Config, load_config
from myna.models.build import build_recognizer
from myna.models.recognizer import Recognizer
from myna.samples import AudioClip, Batch, Utterance

FAMILIES = ("whisper", "wav2vec2", "hubert", "wavlm", "parakeet", "conformer", "transformer")
METHODS = {
    "full": (),
    "freeze_encoder": ("model.freeze_encoder=true",),
    "freeze_layers": ("model.freeze_layers=1",),
    "lora": ("adapter.kind=lora", "adapter.rank=4", "adapter.dropout=0"),
    "qlora": ("adapter.kind=qlora", "adapter.rank=4", "adapter.dropout=0"),
}
SHORT_CONTEXT = (  # Whisper's
    "model.audio_context=auto",
    "model.audio_context_margin_seconds=3",
    "training.eval_on_start=true",
)
TEXTS = ["abc", "cab ab", "bac", "ba"]
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6, "c": 7}
OURS = ["d_model=32", "num_encoder_layers=2", "num_heads=2", "d_ff=64", "conv_kernel_size=7", "dropout=0"]
RELATIVES = {  # of wav2vec 2.0, alike but for details
    "data2vec-audio": Data2VecAudioConfig,
    "unispeech": UniSpeechConfig,
    "unispeech-sat": UniSpeechSatConfig,
    "sew": SEWConfig,
}
HUB_CONFIGS = {"wav2vec2": Wav2Vec2Config, "hubert": HubertConfig, "wavlm": WavLMConfig, **RELATIVES}
HUB_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
} | dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout", "layerdrop"), 0
)

DIFFERENT = {"data2vec-audio": {"num_conv_pos_embeddings": 2}, "sew": {"squeeze_factor": 2}}


def family_of(kind: str) -> str:
    """The family that a model of this kind is configured as."""
    return "wav2vec2" if kind in HUB_CONFIGS else kind


def write_base(folder: Path, kind: str, shared: Path) -> Path:
    """A pretrained model with random weights; Whisper's tokenizer comes from the real one."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    if kind == "whisper":
        return _write_whisper(folder, shared / "models" / "whisper-tiny")
    if kind == "parakeet":
        return write_parakeet(folder)
    if kind in HUB_CONFIGS:
        AutoModelForCTC.from_config(HUB_CONFIGS[kind](**HUB_SIZES | DIFFERENT.get(kind, {}))).save_pretrained(folder)
        (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
        return folder
    config = load_config([], [f"model.family={kind}", *(f"model.{size}" for size in OURS)])
    build_recognizer(config, TEXTS).save_pretrained(folder)
    return folder


def _write_whisper(folder: Path, real: Path) -> Path:
    for path in real.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    sides = {f"{side}_{what}": value for side in ("encoder", "decoder") for what, value in _WHISPER_SIZES.items()}
    config = WhisperConfig.from_pretrained(real, d_model=32, num_hidden_layers=2, dropout=0.0, **sides)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig.from_pretrained(real)
    model.generation_config.alignment_heads = None
    model.save_pretrained(folder)
    return folder


PARAKEET_PIECES = ["<unk>", "▁c", "ab", "▁", "a", "b", "c"]
PARAKEET_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "layerdrop": 0.1,
} | dict.fromkeys(("dropout", "activation_dropout", "attention_dropout"), 0)


def write_parakeet(folder: Path) -> Path:
    """As NVIDIA publishes: pieces of sentencepiece, the blank last, the encoder's settings within the model's."""
    blank = len(PARAKEET_PIECES)
    model = ParakeetForCTC(
        ParakeetCTCConfig(vocab_size=blank + 1, pad_token_id=blank, encoder_config=dict(PARAKEET_SIZES))
    )
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_buffers():  # as if it had been trained
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
    for weight in model.parameters():  # fresh ones are so small that half precision loses their gradients
        weight.data *= 5 if weight.dim() > 1 else 1
    model.save_pretrained(folder)
    rows = {piece: row for row, piece in enumerate(PARAKEET_PIECES)}
    tokenizer = Tokenizer(BPE(rows, [("a", "b"), ("▁", "c")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.add_special_tokens([AddedToken("<unk>", normalized=False), AddedToken("<pad>", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"feature_extractor_type": "ParakeetFeatureExtractor", "feature_size": 80, "sampling_rate": 16_000}
    settings |= {"hop_length": 160, "n_fft": 512, "win_length": 400, "preemphasis": 0.97, "padding_value": 0.0}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


_WHISPER_SIZES = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}


def method_config(base: Path, kind: str, method: str, *overrides: str) -> Config:
    settings = [f"model.family={family_of(kind)}", f"model.pretrained={base}", *METHODS[method]]
    return load_config([], [*settings, *(["model.language=es"] if kind == "whisper" else []), *overrides])


def build_method(base: Path, kind: str, method: str, *overrides: str) -> Recognizer:
    """A recogniser as training has it, in training mode; adapters already say something."""
    torch.manual_seed(0)
    recognizer = build_recognizer(method_config(base, kind, method, *overrides), TEXTS)
    wake_adapters(recognizer)
    recognizer.model.train()
    return recognizer


def wake_adapters(recognizer: Recognizer) -> None:
    """Half of each adapter starts at 0, so that nothing of the other half would be seen."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in recognizer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=generator)


def speech_batch(recognizer: Recognizer, rows: int = 4, seconds: float = 1.0) -> Batch:
    """Noise of equal lengths, with texts."""
    rng = np.random.default_rng(0)
    processor = recognizer.processor
    clips = [AudioClip(rng.standard_normal(int(16_000 * seconds)).astype(np.float32), 16_000) for _ in range(rows)]
    features = [processor.features(clip) for clip in clips]
    spoken = [Utterance(str(i), "", TEXTS[i % 4], TEXTS[i % 4], seconds, "train", "", "es") for i in range(rows)]
    labels = [torch.tensor(processor.labels(row)) for row in spoken]
    return Batch(
        tuple(row.utterance_id for row in spoken),
        torch.stack(features),
        torch.tensor([len(row) for row in features]),
        pad_sequence(labels, batch_first=True, padding_value=-100),
        torch.tensor([len(row) for row in labels]),
        torch.ones(rows),
    )


def gradient_of(recognizer: Recognizer, batch: Batch, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Of the mean loss, by parameter; what is trained and gets none is None. Half precision wants a scale."""
    recognizer.model.zero_grad()
    torch.manual_seed(0)
    (scale * recognizer.losses(recognizer.model, batch).sum() / recognizer.items(batch).sum()).backward()
    named = recognizer.model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.requires_grad}
