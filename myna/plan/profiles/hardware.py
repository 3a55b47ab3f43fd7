"""The machine that training runs on, or is imagined to run on: `HardwareProfile`."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from myna.errors import ConfigError
from myna.machine import usable_cores, usable_memory
from myna.plan.profiles.cards import find_card

DEFAULT_SAFETY_MARGIN = 0.85
# What a process holds besides its tensors. On a card: CUDA context, cuBLAS and cuDNN with their workspaces; a guess.
# On a CPU: the imports of a training process, measured as 499 MiB resident (torch 2.13, transformers 5.23).
CONTEXT_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or the MIG slice of one, as torch sees it."""

    name: str
    memory_bytes: int
    available_bytes: int  # free, or already held by this process's own tensors
    compute_capability: tuple[int, int] | None  # None: not a CUDA device
    has_bf16: bool


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """What training may use; on a machine without a GPU the fields of the GPU are None, 0 or empty."""

    gpu_name: str | None
    gpu_count: int
    gpu_memory_bytes: int  # of one card, as torch reports it
    gpu_available_bytes: int
    compute_capability: tuple[int, int] | None
    cuda_version: str | None  # that torch was built for
    cpu_name: str
    cpu_cores: float  # that this process may use; a container's quota may be a fraction
    ram_bytes: int
    ram_available_bytes: int
    disk_free_bytes: int
    dtypes: tuple[str, ...]  # precisions it trains in, of fp32, fp16, bf16
    flash_attention: bool  # torch has such a kernel for it
    safety_margin: float = DEFAULT_SAFETY_MARGIN  # share of the memory that a plan may fill
    is_present: bool = True  # False: a card that someone asks about

    def __post_init__(self) -> None:
        if not 0 < self.safety_margin <= 1:
            raise ConfigError([f"safety_margin: expected more than 0 and at most 1; received {self.safety_margin}"])

    @classmethod
    def detect(cls, safety_margin: float = DEFAULT_SAFETY_MARGIN) -> HardwareProfile:
        """This machine; container limits, MIG slices and CUDA_VISIBLE_DEVICES are respected."""
        return cls._from_gpus(visible_gpus(), _cuda_version(), safety_margin)

    @classmethod
    def of_card(cls, name: str, safety_margin: float = DEFAULT_SAFETY_MARGIN) -> HardwareProfile:
        """This machine with one card of that name in it, empty; torch is not loaded.

        Raises:
            MynaError: no such card is known, or several are meant.
        """
        card = find_card(name)
        return cls(
            gpu_name=card.name,
            gpu_count=1,
            gpu_memory_bytes=card.memory_bytes,
            gpu_available_bytes=card.memory_bytes,
            compute_capability=card.compute_capability,
            cuda_version=None,
            dtypes=card.dtypes,
            flash_attention=card.flash_attention,
            safety_margin=safety_margin,
            is_present=False,
            **_host(),
        )

    @classmethod
    def of_memory(
        cls,
        memory_gb: float,
        safety_margin: float = DEFAULT_SAFETY_MARGIN,
        device: Literal["cuda", "cpu"] = "cuda",
    ) -> HardwareProfile:
        """This machine with so much memory: an unnamed recent card's, or its own RAM cut down.

        Args:
            memory_gb: 10^9 bytes each, which for most cards comes close to what torch sees of the GiB on the box.
            safety_margin: share of it that a plan may fill.
            device: whose memory is meant.

        Raises:
            ConfigError: less than nothing.
        """
        if not 0 < memory_gb < 10_000:
            raise ConfigError([f"memory_gb: expected more than 0 and less than 10,000; received {memory_gb}"])
        memory_bytes = int(memory_gb * 1e9)
        host = _host()
        if device == "cpu":
            host |= {"ram_bytes": memory_bytes, "ram_available_bytes": memory_bytes}
            return cls._without_gpu(host, safety_margin, is_present=False)
        return cls(
            gpu_name=f"a card of {memory_gb:g} GB",
            gpu_count=1,
            gpu_memory_bytes=memory_bytes,
            gpu_available_bytes=memory_bytes,
            compute_capability=None,
            cuda_version=None,
            dtypes=("fp32", "fp16", "bf16"),
            flash_attention=False,  # the plan then also holds where there is none
            safety_margin=safety_margin,
            is_present=False,
            **host,
        )

    @classmethod
    def _from_gpus(cls, gpus: list[Gpu], cuda_version: str | None, safety_margin: float) -> HardwareProfile:
        """Several GPUs count as copies of the one with the least memory to spare: each gets the same batches."""
        if not gpus:
            return cls._without_gpu(_host(), safety_margin)
        least = min(gpus, key=lambda gpu: gpu.available_bytes)
        capability = least.compute_capability
        return cls(
            gpu_name=least.name,
            gpu_count=len(gpus),
            gpu_memory_bytes=least.memory_bytes,
            gpu_available_bytes=least.available_bytes,
            compute_capability=capability,
            cuda_version=cuda_version,
            dtypes=("fp32", "fp16", "bf16") if least.has_bf16 else ("fp32", "fp16"),
            flash_attention=capability is not None and capability >= (8, 0),
            safety_margin=safety_margin,
            **_host(),
        )

    @classmethod
    def _without_gpu(cls, host: dict[str, Any], safety_margin: float, is_present: bool = True) -> HardwareProfile:
        return cls(
            gpu_name=None,
            gpu_count=0,
            gpu_memory_bytes=0,
            gpu_available_bytes=0,
            compute_capability=None,
            cuda_version=None,
            dtypes=("fp32", "bf16") if _cpu_has_bf16() else ("fp32",),
            flash_attention=False,
            safety_margin=safety_margin,
            is_present=is_present,
            **host,
        )

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where the model will be."""
        return "cuda" if self.gpu_count else "cpu"

    @property
    def context_bytes(self) -> int:
        """What a training process holds on its device besides tensors."""
        return CONTEXT_BYTES

    @property
    def memory_limit_bytes(self) -> int:
        """What tensors and their allocator may fill: the margin's share of the memory, less the context.

        Never more than is free now, so that a card that others use too is planned for as it is.
        """
        if self.device == "cpu":
            return max(0, int(self.safety_margin * self.ram_available_bytes) - CONTEXT_BYTES)
        share = int(self.safety_margin * self.gpu_memory_bytes) - CONTEXT_BYTES
        return max(0, min(share, self.gpu_available_bytes))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def visible_gpus() -> list[Gpu]:
    """The GPUs that torch can train on; none when it cannot load or has no GPU. Apple's are not planned for."""
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library of the wheel does not load
        return []
    if not torch.cuda.is_available():  # ROCm answers by this name too
        return []
    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> Gpu:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free_bytes, _ = torch.cuda.mem_get_info(index)
    return Gpu(
        name=properties.name,
        memory_bytes=properties.total_memory,  # of the slice, where the device is one
        available_bytes=free_bytes + torch.cuda.memory_reserved(index),
        compute_capability=(properties.major, properties.minor) if torch.version.cuda else None,
        has_bf16=torch.cuda.is_bf16_supported(including_emulation=False),
    )


def _cuda_version() -> str | None:
    try:
        import torch
    except (ImportError, OSError):
        return None
    version: str | None = torch.version.cuda
    return version


def _host() -> dict[str, Any]:
    """What does not depend on the card."""
    total, available = usable_memory()
    return {
        "cpu_name": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpu_cores": usable_cores(),
        "ram_bytes": total,
        "ram_available_bytes": available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def _cpu_has_bf16() -> bool:
    """Whether bf16 is multiplied by the processor itself; emulated, it is slower than fp32."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint((_cpu_field("flags") or _cpu_field("Features")).split())


def _cpu_field(name: str) -> str:
    """A line of Linux's description of the first processor; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
