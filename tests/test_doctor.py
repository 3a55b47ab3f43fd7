"""The doctor: true findings, and a broken part is a finding too."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

import myna.doctor as doctor
from myna.audio.decode import probe

EVERYTHING = {"python", "torch", "CPU", "memory", "disk", *doctor.AUDIO_FORMATS}


def by_name(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_examines_everything() -> None:
    found = by_name(doctor.examine())
    assert set(found) >= EVERYTHING | {"extra demo", "extra track", "extra datasets"}
    assert any(name.startswith("GPU") for name in found)
    assert {name for name in EVERYTHING - {"disk"} if found[name].state != "ok"} == set()
    json.dumps([asdict(finding) for finding in found.values()])


@pytest.mark.parametrize("name", doctor.AUDIO_FORMATS)
def test_samples_are_what_they_say(name: str) -> None:
    info = probe(doctor.encode_sample(name))
    assert info.sample_rate_hz == 16_000
    assert info.channels == 1


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) - {"all", "dev"} == set(doctor.PACKAGES_OF_EXTRAS)
    assert set(doctor.PURPOSES_OF_EXTRAS) == set(doctor.PACKAGES_OF_EXTRAS)


def test_a_missing_extra_comes_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PACKAGES_OF_EXTRAS, "track", "no_such_package")
    finding = by_name(doctor.examine())["extra track"]
    assert finding.state == "optional"
    assert finding.remedy == "Install it with: pip install 'myna[track]'"


def test_a_package_that_does_not_load_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch raises ImportError
    monkeypatch.setitem(sys.modules, "av", None)
    found = by_name(doctor.examine())
    assert found["torch"].state == "missing"
    assert found["m4a"].state == "missing"
    assert "pip install" in found["m4a"].remedy
    assert found["wav"].state == "ok"


def test_a_full_disk_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK_BYTES", 10**18)
    assert by_name(doctor.examine())["disk"].state == "missing"


def test_renders_every_finding_with_its_remedy() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(
        doctor.render([doctor.Finding("extra demo", "optional", "not installed", "pip install 'myna[demo]'")])
    )
    text = console.export_text()
    assert "optional" in text
    assert "not installed. pip install 'myna[demo]'" in text
