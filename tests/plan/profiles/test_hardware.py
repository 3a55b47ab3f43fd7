"""What the machine is said to have agrees with the machine, and imagined cards need no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from myna.errors import ConfigError, MynaError
from myna.machine import usable_cores, usable_memory
from myna.plan.profiles.hardware import CONTEXT_BYTES, Gpu, HardwareProfile, visible_gpus

GIB = 2**30


def gpu(name: str = "NVIDIA L4", memory_gib: float = 22.03, available_gib: float = 21.8, **changes) -> Gpu:
    values = Gpu(name, int(memory_gib * GIB), int(available_gib * GIB), (8, 9), True)
    return replace(values, **changes)


def test_this_machine():
    hardware = HardwareProfile.detect()
    total, available = usable_memory()
    assert hardware.ram_bytes == total
    assert hardware.ram_available_bytes == pytest.approx(available, rel=0.2)
    assert hardware.cpu_cores == usable_cores()
    assert hardware.disk_free_bytes == pytest.approx(shutil.disk_usage(Path.cwd()).free, rel=0.2)
    assert hardware.cpu_name
    assert hardware.gpu_count == len(visible_gpus())
    assert hardware.device == ("cuda" if visible_gpus() else "cpu")
    assert hardware.is_present


def test_the_limit_on_a_cpu_is_a_share_of_the_free_memory():
    hardware = HardwareProfile.of_memory(8, safety_margin=0.5, device="cpu")
    assert hardware.device == "cpu"
    assert hardware.memory_limit_bytes == 4_000_000_000 - CONTEXT_BYTES


def test_the_limit_on_a_card():
    hardware = HardwareProfile.of_card("L4")
    assert hardware.memory_limit_bytes == int(0.85 * hardware.gpu_memory_bytes) - CONTEXT_BYTES


def test_the_limit_is_never_below_nothing():
    assert HardwareProfile.of_memory(0.1).memory_limit_bytes == 0


def test_a_shared_card_is_planned_for_as_it_is():
    hardware = HardwareProfile._from_gpus([gpu(available_gib=5)], "12.9", 0.85)
    assert hardware.memory_limit_bytes == 5 * GIB


def test_several_gpus_count_as_the_one_with_least_to_spare():
    gpus = [gpu(), gpu("Tesla T4", 14.56, 14.4, compute_capability=(7, 5), has_bf16=False), gpu()]
    hardware = HardwareProfile._from_gpus(gpus, "12.9", 0.85)
    assert (hardware.gpu_count, hardware.gpu_name) == (3, "Tesla T4")
    assert hardware.dtypes == ("fp32", "fp16")
    assert not hardware.flash_attention


def test_a_mig_slice_is_what_torch_says_it_is():
    """torch names the slice and reports its memory; the card's own 39.4 GiB do not matter."""
    part = gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.75, 4.7, compute_capability=(8, 0))
    hardware = HardwareProfile._from_gpus([part], "12.9", 0.85)
    assert hardware.memory_limit_bytes == int(0.85 * part.memory_bytes) - CONTEXT_BYTES
    assert hardware.gpu_count == 1


def test_an_amd_card_has_no_compute_capability():
    hardware = HardwareProfile._from_gpus([gpu("AMD Instinct MI210", 64, 63, compute_capability=None)], None, 0.85)
    assert (hardware.compute_capability, hardware.cuda_version, hardware.flash_attention) == (None, None, False)


def test_imagined_cards():
    t4 = HardwareProfile.of_card("Tesla T4")
    assert (t4.gpu_name, t4.compute_capability, t4.dtypes) == ("T4", (7, 5), ("fp32", "fp16"))
    assert t4.cpu_cores == usable_cores()
    assert not t4.is_present
    assert HardwareProfile.of_memory(24).gpu_memory_bytes == 24_000_000_000


def test_an_unknown_card():
    with pytest.raises(MynaError, match="Did you mean"):
        HardwareProfile.of_card("RTX 3095")


@pytest.mark.parametrize("memory_gb", [0, -1, float("nan"), float("inf")])
def test_impossible_memory(memory_gb):
    with pytest.raises(ConfigError, match="memory_gb"):
        HardwareProfile.of_memory(memory_gb)


@pytest.mark.parametrize("margin", [0, -0.1, 1.01, float("nan")])
def test_impossible_margins(margin):
    with pytest.raises(ConfigError, match="safety_margin"):
        HardwareProfile.detect(safety_margin=margin)


def test_it_can_be_written_as_json():
    assert json.loads(json.dumps(HardwareProfile.of_card("L4").to_json()))["gpu_name"] == "L4"


@pytest.mark.slow
def test_an_imagined_card_loads_no_torch():
    code = (
        "import sys; from myna.plan.profiles.hardware import HardwareProfile; HardwareProfile.of_card('T4');"
        "HardwareProfile.of_memory(24); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
