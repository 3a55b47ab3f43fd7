from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from myna.audio.augment.background import Background
from myna.audio.augment.chain import Chain
from myna.audio.augment.spec_augment import SpecAugment
from myna.audio.augment.stretch import Stretch
from myna.audio.augment.volume import Volume
from myna.audio.decode import decode
from myna.augment.examples import write_examples
from myna.errors import AudioError, ConfigError

SPEED_UP = Stretch(min_factor=0.8, max_factor=0.8, probability=0)  # probability is passed over


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "a <b> & c.wav"
    times = np.arange(16_000) / 16_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 500 * times), 16_000)
    return path


def linked(page: str) -> set[str]:
    return set(re.findall(r'(?:src|href)="([^"#]+)"', page))


def test_every_transform_is_written_and_linked(recording, tmp_path):
    report = write_examples(recording, tmp_path / "out")
    names = [example.type for example in report.examples]
    assert len(names) == len(set(names)) == 15
    assert {"far_field", "codec", "spec_augment", "telephone"} <= set(names)
    assert [note.split(" is left out")[0] for note in report.notes] == ["background", "impulse_response"]
    page = Path(report.page).read_text(encoding="utf-8")
    on_disk = {path.name for path in (tmp_path / "out").iterdir()}
    assert linked(page) == on_disk - {"index.html"}
    assert "http" not in page  # nothing from elsewhere
    assert "a &lt;b&gt; &amp; c.wav" in page and "<b>" not in page
    assert json.loads(json.dumps(report.as_dict()))["examples"][0]["type"] == names[0]
    assert report.page in report.as_text()


def test_the_sound_is_what_the_parameters_make(recording, tmp_path):
    report = write_examples(recording, tmp_path / "out", Chain([SPEED_UP, SpecAugment()]), seed=3)
    stretched, masked = report.examples
    folder = tmp_path / "out"
    described = json.loads((folder / "01_stretch.json").read_text())
    assert described["parameters"] == stretched.parameters == {"factor": 0.8}
    after = decode(folder / stretched.sound)
    expected = SPEED_UP.apply(decode(recording), described["parameters"])
    assert after.samples == pytest.approx(expected.samples, abs=1e-4)
    assert masked.sound == ""
    assert soundfile.info(folder / "01_stretch.flac").subtype == "PCM_16"


def test_the_same_seed_gives_the_same_files(recording, tmp_path):
    outs = [tmp_path / name for name in ("one", "two", "other")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        write_examples(recording, out, Chain([Volume()]), seed=seed)
    one, two, other = ((out / "01_volume.flac").read_bytes() for out in outs)
    assert one == two != other


def test_what_is_too_loud_for_16_bits_is_turned_down_and_said(recording, tmp_path):
    chain = Chain([Volume(min_gain_db=20, max_gain_db=20)])
    report = write_examples(recording, tmp_path / "out", chain)
    after = decode(tmp_path / "out" / report.examples[0].sound).samples
    assert np.abs(after).max() == pytest.approx(0.999, abs=1e-3)  # 5.0 once
    assert "turned down by 14.0 dB" in Path(report.page).read_text()


def test_folders_of_others_are_left_alone(recording, tmp_path):
    with pytest.raises(ConfigError, match="holds other things"):
        write_examples(recording, tmp_path, Chain([Volume()]))
    assert recording.is_file()
    with pytest.raises(ConfigError, match="which is a file"):
        write_examples(recording, recording, Chain([Volume()]))
    for _ in range(2):  # what it wrote itself, it writes anew
        write_examples(recording, tmp_path / "out", Chain([Volume()]))


def test_mistakes_leave_nothing_behind(recording, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        write_examples(recording, tmp_path / "out", Chain([Background(folder="nowhere")]))
    with pytest.raises(AudioError, match="missing_file"):
        write_examples(tmp_path / "gone.wav", tmp_path / "out", Chain([Volume()]))
    assert [path.name for path in tmp_path.iterdir()] == [recording.name]


def test_a_long_recording_is_cut(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.full(31 * 8_000, 0.1), 8_000)
    assert write_examples(tmp_path / "long.wav", tmp_path / "out", Chain([Volume()])).seconds == 30
