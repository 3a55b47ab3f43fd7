"""Cards are found as people and torch write them; what is ambiguous or unknown is explained."""

from __future__ import annotations

import pytest

from myna.errors import MynaError
from myna.plan.profiles.cards import CARDS, find_card

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("T4", "T4"),
        ("Tesla T4", "T4"),
        ("t4 16gb", "T4"),
        ("rtx3090", "RTX 3090"),
        ("3090", "RTX 3090"),
        ("RTX 3090 24GB", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("RTX 3060 12", "RTX 3060"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "RTX 3060 Laptop"),
        ("A100 40GB", "A100 40GB"),
        ("a100-80", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA L4", "L4"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"),
        ("V100-32", "V100 32GB"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A10G", "A10G"),
        ("A10", "A10"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("a4000", "RTX A4000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Quadro RTX 8000", "Quadro RTX 8000"),
        ("GTX 1080 Ti", "GTX 1080 Ti"),
        ("1650", "GTX 1650"),
        ("RTX 5090", "RTX 5090"),
        ("rtx 4060 ti 16gb", "RTX 4060 Ti 16GB"),
    ],
)
def test_spellings(text, name):
    assert find_card(text).name == name


def test_every_card_is_found_by_its_own_name_and_aliases():
    assert [name for card in CARDS for name in (card.name, *card.aliases) if find_card(name) is not card] == []


def test_known_capacities():
    """As published in docs/plan.md: what torch reports, in GiB."""
    known = {"L4": 22.03, "A100 40GB": 39.39, "T4": 14.56, "V100 32GB": 31.74, "RTX 3090": 23.68, "RTX 3060": 11.75}
    assert {name: round(find_card(name).memory_bytes / GIB, 2) for name in known} == known


def test_no_card_has_more_memory_than_it_is_sold_with():
    assert [card.name for card in CARDS if not 0.9 < card.memory_bytes / GIB / card.marketed_gb < 1] == []


@pytest.mark.parametrize(("text", "names"), [("A100", "A100 40GB or A100 80GB"), ("V100", "V100 16GB or V100 32GB")])
def test_ambiguous_names_are_explained(text, names):
    with pytest.raises(MynaError, match=names):
        find_card(text)


def test_memory_decides_between_cards_of_one_name():
    assert find_card("NVIDIA GeForce RTX 4060 Ti", memory_bytes=int(15.7 * GIB)).name == "RTX 4060 Ti 16GB"
    assert find_card("NVIDIA GeForce RTX 4060 Ti", memory_bytes=int(7.6 * GIB)).name == "RTX 4060 Ti 8GB"


@pytest.mark.parametrize(("text", "near"), [("RTX 3095", "RTX 3090"), ("L40Z", "L40"), ("A6001", "RTX A6000")])
def test_unknown_names_get_a_suggestion(text, near):
    with pytest.raises(MynaError, match=near):
        find_card(text)


def test_a_size_that_the_card_is_not_sold_with_is_refused():
    with pytest.raises(MynaError, match="T4"):
        find_card("T4 80GB")


@pytest.mark.parametrize("text", ["", "   ", "warp drive"])
def test_nonsense_is_refused(text):
    with pytest.raises(MynaError, match="memory-gb"):
        find_card(text)


def test_a_mig_slice_has_its_share_of_memory_and_speed():
    whole, part = find_card("A100 40GB"), find_card("NVIDIA A100-SXM4-40GB MIG 3g.20gb")
    assert part.name == "A100 40GB MIG 3g.20gb"
    assert part.memory_bytes == 19 * GIB  # NVIDIA's guide: 19,968 MiB
    assert part.peak_half_tflops == pytest.approx(whole.peak_half_tflops * 3 / 7)
    assert find_card("NVIDIA H100 80GB HBM3 MIG 1g.10gb").compute_capability == (9, 0)
    assert find_card("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb").marketed_gb == 20


def test_a_whole_card_as_one_slice_is_no_larger_than_the_card():
    assert find_card("A100 80GB MIG 7g.80gb").memory_bytes <= find_card("A100 80GB").memory_bytes


def test_what_kernels_there_are():
    assert find_card("T4").dtypes == ("fp32", "fp16")
    assert not find_card("V100 32GB").flash_attention
    assert find_card("RTX 3060").dtypes == ("fp32", "fp16", "bf16")
    assert find_card("L4").flash_attention
    assert find_card("GTX 1650").dtypes == ("fp32",)


def test_assumed_speed_keeps_below_the_peak():
    for card in CARDS:
        assert 0 < card.sustained_fp32_tflops < card.peak_fp32_tflops
        assert 0 < card.sustained_half_tflops < card.peak_half_tflops
