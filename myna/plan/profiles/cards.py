"""What is known of graphics cards without having them: memory as torch sees it, kernels, speed.

Memory is `torch.cuda.get_device_properties(0).total_memory`, less than the box says: the driver keeps some, and so does
error correction. Sizes marked m were read on such cards (out-of-memory messages, `total_memory`), the smallest where
reports differ; those marked e are estimated as the least share that a measured card of the same class leaves: 0.945 of
the nominal GiB up to 8 GiB, 0.97 above.

Peaks are those of the vendor's data sheets and architecture papers, dense (no sparsity), with accumulation in fp32,
which torch asks for and GeForce cards do at half their fp16 rate. Cards without tensor cores are given their fp32 rate
for fp16 as well: cuBLAS converts and multiplies in fp32.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from myna.errors import MynaError

# Assumed until a run's own first steps are measured. NVIDIA's published fine-tuning of wav2vec 2.0 Base on an A100
# (DeepLearningExamples: 41,276 tokens/s, each about 0.7 GFLOP) reaches 0.09 of the half-precision peak: tensor cores
# idle while elementwise kernels move memory. Wider models idle less, fp32 without tensor cores hardly.
SUSTAINED_SHARE_HALF = 0.12
SUSTAINED_SHARE_FP32 = 0.5
MIG_COMPUTE_SLICES = 7
MIG_MEMORY_SHARE = 0.95  # of the GiB in a profile's name, the least of NVIDIA's MIG guide: 1g.5gb has 4,864 MiB


@dataclass(frozen=True, slots=True)
class Card:
    """One graphics card."""

    name: str
    marketed_gb: int
    memory_bytes: int  # as torch reports it
    compute_capability: tuple[int, int]
    peak_half_tflops: float  # fp16, and bf16 where there is one; dense
    peak_fp32_tflops: float
    aliases: tuple[str, ...] = ()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Precisions it trains in."""
        if self.compute_capability >= (8, 0):
            return ("fp32", "fp16", "bf16")
        if self.name.startswith("GTX 16"):  # fp16 convolutions give NaN on TU116 and TU117
            return ("fp32",)
        return ("fp32", "fp16")

    @property
    def flash_attention(self) -> bool:
        """Whether torch has a flash attention kernel for it (sm_80 and later)."""
        return self.compute_capability >= (8, 0)

    @property
    def sustained_half_tflops(self) -> float:
        """What training is assumed to reach in fp16 or bf16."""
        share = SUSTAINED_SHARE_HALF if self._has_tensor_cores else SUSTAINED_SHARE_FP32
        return share * self.peak_half_tflops

    @property
    def sustained_fp32_tflops(self) -> float:
        """What training is assumed to reach in fp32, which moves twice the bytes of half precision."""
        plain = SUSTAINED_SHARE_FP32 * self.peak_fp32_tflops
        return min(plain, self.sustained_half_tflops / 2) if self._has_tensor_cores else plain

    @property
    def _has_tensor_cores(self) -> bool:
        return self.compute_capability >= (7, 0) and not self.name.startswith("GTX 16")


def _card(
    name: str, marketed_gb: int, gib: float, capability: tuple[int, int], half: float, fp32: float, *aliases: str
) -> Card:
    return Card(name, marketed_gb, int(gib * 2**30), capability, half, fp32, aliases)


CARDS: tuple[Card, ...] = (
    # Data centres
    _card("P100", 16, 15.89, (6, 0), 9.3, 9.3),  # m
    _card("P40", 24, 22.38, (6, 1), 11.8, 11.8),  # m
    _card("V100 16GB", 16, 15.77, (7, 0), 112.0, 14.0),  # m
    _card("V100 32GB", 32, 31.74, (7, 0), 112.0, 14.0),  # m
    _card("T4", 16, 14.56, (7, 5), 65.0, 8.1),  # m
    _card("A2", 16, 14.5, (8, 6), 18.0, 4.5),  # e
    _card("A10", 24, 22.0, (8, 6), 125.0, 31.2),  # m: 23,028 MiB less the driver's share, as on the L4
    _card("A10G", 24, 22.0, (8, 6), 70.0, 31.5),  # likewise
    _card("A30", 24, 23.5, (8, 0), 165.0, 10.3),  # m
    _card("A40", 48, 44.3, (8, 6), 149.7, 37.4),  # e: with error correction, as on the L40S
    _card("A100 40GB", 40, 39.39, (8, 0), 312.0, 19.5),  # m
    _card("A100 80GB", 80, 79.14, (8, 0), 312.0, 19.5, "A800"),  # m
    _card("L4", 24, 22.03, (8, 9), 121.0, 30.3),  # m
    _card("L40", 48, 44.39, (8, 9), 181.0, 90.5),  # m
    _card("L40S", 48, 44.39, (8, 9), 362.0, 91.6),  # m
    _card("H100", 80, 79.1, (9, 0), 989.0, 67.0, "H100 SXM", "H800"),  # m
    _card("H100 PCIe", 80, 79.1, (9, 0), 756.0, 51.0),  # m
    _card("H100 NVL", 94, 93.0, (9, 0), 835.0, 60.0),  # e
    _card("H200", 141, 139.8, (9, 0), 989.0, 67.0),  # m
    _card("B200", 180, 178.3, (10, 0), 2250.0, 75.0),  # m
    # Workstations
    _card("Titan RTX", 24, 23.6, (7, 5), 130.5, 16.3),  # e
    _card("Quadro RTX 6000", 24, 23.6, (7, 5), 130.5, 16.3),  # e
    _card("Quadro RTX 8000", 48, 47.45, (7, 5), 130.5, 16.3),  # m
    _card("RTX A2000", 12, 11.64, (8, 6), 31.9, 8.0),  # e
    _card("RTX A4000", 16, 15.61, (8, 6), 76.7, 19.2),  # m
    _card("RTX A4500", 20, 19.6, (8, 6), 94.6, 23.7),  # e
    _card("RTX A5000", 24, 23.68, (8, 6), 111.1, 27.8),  # m: as on the RTX 3090
    _card("RTX A6000", 48, 47.54, (8, 6), 154.8, 38.7),  # m
    _card("RTX 4000 Ada", 20, 19.4, (8, 9), 106.9, 26.7),  # e
    _card("RTX 5000 Ada", 32, 31.0, (8, 9), 261.0, 65.3),  # e
    _card("RTX 6000 Ada", 48, 44.43, (8, 9), 364.2, 91.1),  # m: with error correction
    _card("RTX PRO 6000", 96, 93.1, (12, 0), 503.8, 126.0, "RTX PRO 6000 Blackwell"),  # e
    # GeForce
    _card("GTX 1060", 6, 5.67, (6, 1), 4.4, 4.4),  # e
    _card("GTX 1070", 8, 7.56, (6, 1), 6.5, 6.5),  # e
    _card("GTX 1080", 8, 7.56, (6, 1), 8.9, 8.9),  # e
    _card("GTX 1080 Ti", 11, 10.91, (6, 1), 11.3, 11.3),  # m
    _card("GTX 1650", 4, 3.78, (7, 5), 3.0, 3.0),  # e
    _card("GTX 1660", 6, 5.67, (7, 5), 5.0, 5.0, "GTX 1660 Super", "GTX 1660 Ti"),  # e
    _card("RTX 2060", 6, 5.67, (7, 5), 25.8, 6.5),  # e
    _card("RTX 2070", 8, 7.56, (7, 5), 29.9, 7.5, "RTX 2070 Super"),  # e
    _card("RTX 2080", 8, 7.56, (7, 5), 40.3, 10.1, "RTX 2080 Super"),  # e
    _card("RTX 2080 Ti", 11, 10.75, (7, 5), 53.8, 13.4),  # m
    _card("RTX 3050", 8, 7.56, (8, 6), 18.2, 9.1),  # e
    _card("RTX 3060", 12, 11.75, (8, 6), 25.5, 12.7),  # m
    _card("RTX 3060 Laptop", 6, 5.67, (8, 6), 21.8, 10.9),  # m: 5.80 and less
    _card("RTX 3060 Ti", 8, 7.56, (8, 6), 32.4, 16.2),  # e
    _card("RTX 3070", 8, 7.78, (8, 6), 40.6, 20.3),  # m
    _card("RTX 3070 Ti", 8, 7.56, (8, 6), 43.5, 21.7),  # e
    _card("RTX 3080 10GB", 10, 9.77, (8, 6), 59.5, 29.8),  # m
    _card("RTX 3080 12GB", 12, 11.7, (8, 6), 61.3, 30.6),  # e
    _card("RTX 3080 Ti", 12, 11.7, (8, 6), 68.2, 34.1),  # e
    _card("RTX 3090", 24, 23.68, (8, 6), 71.0, 35.6),  # m
    _card("RTX 3090 Ti", 24, 23.65, (8, 6), 80.0, 40.0),  # e
    _card("RTX 4060", 8, 7.63, (8, 9), 30.2, 15.1),  # m
    _card("RTX 4060 Laptop", 8, 7.63, (8, 9), 23.2, 11.6),  # m: 7.75 and less
    _card("RTX 4060 Ti 8GB", 8, 7.63, (8, 9), 44.1, 22.1),  # e
    _card("RTX 4060 Ti 16GB", 16, 15.6, (8, 9), 44.1, 22.1),  # e
    _card("RTX 4070", 12, 11.64, (8, 9), 58.3, 29.1),  # e
    _card("RTX 4070 Laptop", 8, 7.63, (8, 9), 31.2, 15.6),  # e
    _card("RTX 4070 Super", 12, 11.64, (8, 9), 71.0, 35.5),  # e
    _card("RTX 4070 Ti", 12, 11.64, (8, 9), 80.2, 40.1),  # e
    _card("RTX 4070 Ti Super", 16, 15.6, (8, 9), 88.2, 44.1),  # e
    _card("RTX 4080", 16, 15.69, (8, 9), 97.5, 48.7),  # m
    _card("RTX 4080 Super", 16, 15.69, (8, 9), 104.4, 52.2),  # m
    _card("RTX 4090", 24, 23.61, (8, 9), 165.2, 82.6),  # m
    _card("RTX 4090 Laptop", 16, 15.6, (8, 9), 66.0, 33.0),  # e
    _card("RTX 5060 Ti 8GB", 8, 7.56, (12, 0), 47.4, 23.7),  # e
    _card("RTX 5060 Ti 16GB", 16, 15.5, (12, 0), 47.4, 23.7),  # e
    _card("RTX 5070", 12, 11.64, (12, 0), 61.7, 30.9),  # e
    _card("RTX 5070 Ti", 16, 15.5, (12, 0), 87.9, 43.9),  # e
    _card("RTX 5080", 16, 15.5, (12, 0), 112.6, 56.3),  # e
    _card("RTX 5090", 32, 31.36, (12, 0), 209.5, 104.8),  # m
)

_NOISE = re.compile(r"\b(nvidia|geforce|tesla|gpu|graphics|card|generation|edition|sxm\d?|hbm\de?)\b")
_SIZE = re.compile(r"\b(\d{1,3})\s*(?:gb|gib|g)\b")
_MIG = re.compile(r"\bmig\s+(?:\dc\.)?(\d)g\.(\d+)gb\b")


def find_card(text: str, memory_bytes: int | None = None) -> Card:
    """The card that a person or torch means: "rtx3090", "A100 40GB", "a100-80", "NVIDIA A100-SXM4-40GB MIG 3g.20gb".

    Args:
        text: its name, in about any spelling.
        memory_bytes: decides between cards of the same name that differ in memory.

    Returns:
        The card, or for a MIG slice the card's share of it.

    Raises:
        MynaError: no such card is known, or several are meant.
    """
    lowered = text.lower()
    if slice_ := _MIG.search(lowered):
        whole = find_card(lowered[: slice_.start()], memory_bytes=0)
        return _mig_slice(whole, int(slice_[1]), int(slice_[2]))
    found = [card for card in CARDS if _matches(card, lowered)]
    if len(found) > 1 and memory_bytes is not None:
        found = [min(found, key=lambda card: abs(card.memory_bytes - memory_bytes))]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(card.name for card in found)
        raise MynaError(f"{text!r}: expected one card; received a name that several have", f"Say {names}.")
    raise MynaError(f"{text!r}: expected a known graphics card; received none", _suggestion(lowered))


def _mig_slice(card: Card, compute_slices: int, gigabytes: int) -> Card:
    share = compute_slices / MIG_COMPUTE_SLICES
    return replace(
        card,
        name=f"{card.name} MIG {compute_slices}g.{gigabytes}gb",
        marketed_gb=gigabytes,
        memory_bytes=min(card.memory_bytes, int(MIG_MEMORY_SHARE * gigabytes * 2**30)),
        peak_half_tflops=share * card.peak_half_tflops,
        peak_fp32_tflops=share * card.peak_fp32_tflops,
        aliases=(),
    )


def _matches(card: Card, lowered: str) -> bool:
    wanted, wanted_gb = _parse(lowered)
    for name in (card.name, *card.aliases):
        base, _ = _parse(name.lower())
        plain = _simple(name)
        if base == wanted and wanted_gb in (None, card.marketed_gb):
            return True
        if wanted_gb is None and wanted in (plain, f"{base}{card.marketed_gb}"):  # a100-80, t4-16
            return True
    return False


def _parse(name: str) -> tuple[str, int | None]:
    """Name without its memory size, and that size in GB when it says one."""
    size = _SIZE.search(_NOISE.sub(" ", name.replace("-", " ")))
    return _simple(_SIZE.sub(" ", name.replace("-", " "))), int(size[1]) if size else None


def _simple(name: str) -> str:
    """Letters and digits alone: "NVIDIA GeForce RTX 3090" and "rtx3090" are both 3090."""
    name = _NOISE.sub(" ", name.lower().replace("-", " "))
    if "h100" not in name:  # the only card whose speed differs by its slot
        name = re.sub(r"\bpcie\b", " ", name)
    name = re.sub(r"[^a-z0-9]", "", name)
    return name if name.startswith(("titan", "quadro")) else re.sub(r"rtx|gtx", "", name)


def _suggestion(lowered: str) -> str:
    by_name = {_simple(name): card.name for card in CARDS for name in (card.name, *card.aliases)}
    near = difflib.get_close_matches(_parse(lowered)[0], by_name, n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(dict.fromkeys(by_name[name] for name in near))}? " if near else ""
    return f"{meant}Give another name, or the memory alone: --memory-gb 24."
