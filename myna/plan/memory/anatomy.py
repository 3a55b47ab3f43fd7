"""What a model's configuration says about its sizes, without building it.

Read from the dictionary that `PreTrainedConfig.to_dict` gives, for the families Myna trains. Where a part is optional
it is counted: the sizes are for a bound from above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.polynomial import Polynomial

from myna.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE_RATE_HZ = 16_000
FEATURE_RATE_HZ = 100  # log-mel frames a second
OURS_SUBSAMPLING = 4
OURS_CHANNELS = 32  # of our subsampling's two convolutions
BORDER_FRAMES = 2.0  # that rounding and padding add, at most


@dataclass(frozen=True, slots=True)
class Stack:
    """Equal layers, one on another.

    Attributes:
        positions: of one clip, a polynomial of its seconds.
        memory: positions of another stack that each layer attends to, as a decoder does; None if there are none.
        convolves: a Conformer layer: two feed-forward parts and a convolution.
        relative: attention scores get a part for each distance, which no fused kernel computes.
    """

    layers: int
    width: int
    inner: int
    heads: int
    positions: Polynomial
    memory: Polynomial | None = None
    convolves: bool = False
    relative: bool = False

    @property
    def layer_parameters(self) -> int:
        """At most."""
        attention = 4 * self.width**2 * (2 if self.memory is not None else 1)
        forward = 2 * self.width * self.inner
        if not self.convolves:
            return attention + forward + 24 * self.width + self.inner  # biases and norms
        return attention + 2 * forward + 5 * self.width**2 + 100 * self.width + 2 * self.inner  # kernels of up to 64


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The sizes of a model.

    Attributes:
        stacks: encoder, and decoder if there is one.
        front_layers: floats that each layer of the front end gives for one clip, by its seconds.
        other_parameters: of front end, embeddings and heads, at most.
        front_flops: of the front end's forward for one clip.
        outputs: positions of one clip that have logits.
        vocabulary: logits of a position.
        inputs: floats of one clip.
    """

    stacks: tuple[Stack, ...]
    front_layers: tuple[Polynomial, ...]
    other_parameters: int
    front_flops: Polynomial
    outputs: Polynomial
    vocabulary: int
    inputs: Polynomial

    @property
    def parameters(self) -> int:
        """At most."""
        return self.other_parameters + sum(stack.layers * stack.layer_parameters for stack in self.stacks)


def anatomy(config: dict[str, Any], labels_per_second: float) -> Anatomy:
    """The sizes of a model from its configuration.

    Raises:
        ModelError: a family that this does not know.
    """
    readers: dict[str, Callable[[dict[str, Any], float], Anatomy]] = {
        "conv_dim": _wav2vec2,  # HuBERT, WavLM and the others with that front end, too
        "max_source_positions": _whisper,
        "encoder_config": _parakeet,
        "num_encoder_layers": _ours,
    }
    for key, reader in readers.items():
        if key in config:
            try:
                return reader(config, labels_per_second)
            except (KeyError, TypeError) as error:
                raise ModelError(f"expected the configuration of a speech model; it has no usable {error}") from error
    family = config.get("model_type", "without a model_type")
    raise ModelError(
        f"expected a model like wav2vec 2.0, Whisper, Parakeet or one of Myna's own; received {family}",
        "Its memory can be planned only where its step can be traced.",
    )


def _frames(per_second: float) -> Polynomial:
    return Polynomial([BORDER_FRAMES, per_second])


def _wav2vec2(config: dict[str, Any], labels_per_second: float) -> Anatomy:
    width, rate, before = config["hidden_size"], float(SAMPLE_RATE_HZ), 1
    layers, flops, parameters = [], Polynomial([0.0]), 0
    for channels, kernel, stride in zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True):
        rate /= stride
        layers.append(channels * _frames(rate))
        flops = flops + 2 * kernel * before * layers[-1]
        parameters += channels * (kernel * before + 3)
        before = channels
    position_kernel = config.get("num_conv_pos_embeddings", 128)
    groups = config.get("num_conv_pos_embedding_groups", 16)
    parameters += width * (before + 8) + width * width * position_kernel // groups + width + 3 * position_kernel
    parameters += (width + 1) * config["vocab_size"]
    flops = flops + 2 * width * position_kernel * width // groups * _frames(rate)
    stack = Stack(
        layers=config["num_hidden_layers"],
        width=width,
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        positions=_frames(rate),
        convolves="conv_depthwise_kernel_size" in config,
        relative=config.get("position_embeddings_type") == "relative" or config["model_type"] == "wavlm",
    )
    inputs = 4 * _frames(SAMPLE_RATE_HZ)  # the mask is of int64
    return Anatomy((stack,), tuple(layers), parameters, flops, stack.positions, config["vocab_size"], inputs)


def _whisper(config: dict[str, Any], labels_per_second: float) -> Anatomy:
    width, positions = config["d_model"], config["max_source_positions"]
    tokens = Polynomial([5.0, labels_per_second])
    heard = _frames(FEATURE_RATE_HZ / 2)
    encoder = Stack(
        config["encoder_layers"], width, config["encoder_ffn_dim"], config["encoder_attention_heads"], heard
    )
    decoder = Stack(
        config["decoder_layers"], width, config["decoder_ffn_dim"], config["decoder_attention_heads"], tokens, heard
    )
    mels = config["num_mel_bins"]
    other = width * (3 * mels + 3 * width + positions + config["vocab_size"] + config["max_target_positions"] + 8)
    flops = 2 * 3 * width * (2 * mels + width) * heard
    front = (width * 2 * heard, width * heard)
    return Anatomy((encoder, decoder), front, other, flops, tokens, config["vocab_size"], 2 * mels * heard)


def _parakeet(config: dict[str, Any], labels_per_second: float) -> Anatomy:
    encoder = config["encoder_config"]
    width, channels, factor = (
        encoder["hidden_size"],
        encoder["subsampling_conv_channels"],
        encoder["subsampling_factor"],
    )
    kernel, mels = encoder["subsampling_conv_kernel_size"] ** 2, encoder["num_mel_bins"]
    layers, flops, parameters, divisor = [], Polynomial([0.0]), channels * (kernel + 1), 1
    while divisor < factor:
        divisor *= 2
        floats = channels * -(-mels // divisor) * _frames(FEATURE_RATE_HZ / divisor)
        # depthwise, pointwise, both masked
        layers += [floats] * (1 if divisor == 2 else 2)
        flops = flops + 2 * (kernel + channels) * floats
        parameters += channels * (kernel + channels + 2)
    parameters += width * (channels * -(-mels // factor) + 2) + (width + 1) * config["vocab_size"]
    stack = Stack(
        encoder["num_hidden_layers"],
        width,
        encoder["intermediate_size"],
        encoder["num_attention_heads"],
        _frames(FEATURE_RATE_HZ / factor),
        convolves=True,
        relative=True,
    )
    inputs = (mels + 2) * _frames(FEATURE_RATE_HZ)
    return Anatomy((stack,), tuple(layers), parameters, flops, stack.positions, config["vocab_size"], inputs)


def _ours(config: dict[str, Any], labels_per_second: float) -> Anatomy:
    width, mels, vocabulary = config["d_model"], config["n_mels"], config["vocab_size"]
    quarter = -(-mels // OURS_SUBSAMPLING)
    layers = tuple(
        OURS_CHANNELS * -(-mels // divisor) * _frames(FEATURE_RATE_HZ / divisor) for divisor in (2, OURS_SUBSAMPLING)
    )
    flops = 2 * 9 * (layers[0] + OURS_CHANNELS * layers[1])
    parameters = OURS_CHANNELS * (10 + 9 * OURS_CHANNELS + 1 + quarter * width) + width * 3 + (width + 1) * vocabulary
    stack = Stack(
        config["num_encoder_layers"],
        width,
        config["d_ff"],
        config["num_heads"],
        _frames(FEATURE_RATE_HZ / OURS_SUBSAMPLING),
        convolves="conv_kernel_size" in config,
    )
    inputs = mels * _frames(FEATURE_RATE_HZ)
    return Anatomy((stack,), layers, parameters, flops, stack.positions, vocabulary, inputs)
