"""Figures of datasets, whatever they come as: each way of asking gives the same lengths."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import soundfile

from myna.data.catalog import Catalog
from myna.errors import DataError, SourceError
from myna.plan.profiles.dataset import NUM_QUANTILES, DatasetProfile

SECONDS = [0.5, 1.0, 1.25, 2.0, 4.0]
RATE_HZ = 8_000


def wav_bytes(seconds: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(seconds * RATE_HZ), np.float32), RATE_HZ, format="WAV")
    return buffer.getvalue()


@pytest.fixture
def wav_folder(tmp_path):
    folder = tmp_path / "wavs"
    folder.mkdir()
    for index, seconds in enumerate(SECONDS):
        (folder / f"{index}.wav").write_bytes(wav_bytes(seconds))
        (folder / f"{index}.txt").write_text("ab cd")
    return folder


def assert_known(profile: DatasetProfile) -> None:
    assert profile.utterances == len(SECONDS)
    assert profile.quantile_seconds == tuple(SECONDS)
    assert (profile.min_seconds, profile.max_seconds) == (0.5, 4.0)
    assert profile.mean_seconds == pytest.approx(1.75)
    assert profile.total_hours == pytest.approx(8.75 / 3600)
    assert profile.p95_seconds == pytest.approx(3.6)
    assert not profile.is_sampled
    assert profile.unreadable == 0


def test_durations():
    assert_known(DatasetProfile.from_durations(SECONDS[::-1]))


def test_many_durations_become_quantiles():
    """A known distribution: the quantiles of 0 to 30 s, evenly spread, are that line again."""
    profile = DatasetProfile.from_durations(np.linspace(0.001, 30, 100_000))
    assert len(profile.quantile_seconds) == NUM_QUANTILES
    assert profile.durations_seconds == pytest.approx(np.linspace(0.001, 30, NUM_QUANTILES), abs=1e-3)
    assert profile.durations_seconds.mean() == pytest.approx(profile.mean_seconds, rel=1e-3)


def test_a_sample_stands_for_all():
    profile = DatasetProfile.from_durations(SECONDS, utterances=1000)
    assert profile.total_hours == pytest.approx(1750 / 3600)
    assert profile.is_sampled
    assert profile.measured == 5


@pytest.mark.parametrize("seconds", [[], [1.0, 0.0], [-1.0], [float("nan")], [float("inf")]])
def test_durations_that_are_none(seconds):
    with pytest.raises(DataError, match="expected"):
        DatasetProfile.from_durations(seconds)


def test_it_can_be_written_as_json():
    assert json.loads(json.dumps(DatasetProfile.from_durations(SECONDS).to_json()))["utterances"] == 5


def test_a_catalog_version(tone_catalog):
    profile = DatasetProfile.from_catalog(tone_catalog)
    with Catalog(tone_catalog) as catalog:
        utterances = list(catalog.utterances(split="train"))
        statistics = catalog.statistics()["train"]
    seconds = [utterance.duration_seconds for utterance in utterances]
    assert profile.utterances == statistics.utterances == 64
    assert profile.total_hours == pytest.approx(statistics.hours)
    assert profile.p95_seconds == pytest.approx(statistics.p95_seconds)
    assert profile.quantile_seconds == pytest.approx(tuple(sorted(seconds)), abs=1e-4)
    assert profile.size_bytes == statistics.bytes
    assert profile.labels_per_second == pytest.approx(sum(len(row.text) for row in utterances) / sum(seconds))


def test_a_split_that_is_not_there(tone_catalog):
    with pytest.raises(DataError, match="nonsense"):
        DatasetProfile.from_catalog(tone_catalog, split="nonsense")


def test_a_folder_of_recordings(wav_folder):
    profile = DatasetProfile.from_manifest(wav_folder)
    assert_known(profile)
    assert profile.sample_rate == RATE_HZ
    assert profile.size_bytes == sum(path.stat().st_size for path in wav_folder.glob("*.wav"))
    assert profile.labels_per_second == pytest.approx(25 / 8.75)


def manifest(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_path", "transcript", "duration", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_manifest_with_durations_needs_no_files(tmp_path):
    rows = [{"file_path": f"{index}.wav", "transcript": "a", "duration": s} for index, s in enumerate(SECONDS)]
    profile = DatasetProfile.from_manifest(manifest(tmp_path / "rows.csv", rows))
    assert profile.quantile_seconds == tuple(SECONDS)
    assert profile.unreadable == 5


def test_a_split_of_a_manifest(wav_folder):
    splits = ["train", "train", "valid", "train", "test"]
    rows = [{"file_path": f"{index}.wav", "transcript": "a", "split": split} for index, split in enumerate(splits)]
    profile = DatasetProfile.from_manifest(manifest(wav_folder / "metadata.csv", rows), split="train")
    assert profile.quantile_seconds == (0.5, 1.0, 2.0)


def test_broken_files_are_counted(wav_folder):
    (wav_folder / "1.wav").write_bytes(b"no audio")
    profile = DatasetProfile.from_manifest(wav_folder)
    assert (profile.unreadable, profile.measured, profile.utterances) == (1, 4, 5)


def test_an_even_sample_of_files(wav_folder):
    profile = DatasetProfile.from_manifest(wav_folder, max_probes=3)
    assert profile.quantile_seconds == (0.5, 1.25, 4.0)
    assert (profile.measured, profile.utterances) == (3, 5)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(SourceError):
        DatasetProfile.from_manifest(tmp_path / "nothing")


def huggingface(columns, audio: str = ""):
    import datasets

    dataset = datasets.Dataset.from_dict(columns)
    return dataset.cast_column(audio, datasets.Audio()) if audio else dataset


def test_embedded_recordings():
    columns = {"audio": [{"bytes": wav_bytes(s), "path": None} for s in SECONDS], "sentence": ["ab cd"] * 5}
    profile = DatasetProfile.from_huggingface(huggingface(columns, audio="audio"))
    assert_known(profile)
    assert profile.sample_rate == RATE_HZ
    assert profile.size_bytes == sum(len(wav_bytes(s)) for s in SECONDS)
    assert profile.labels_per_second == pytest.approx(25 / 8.75)


def test_recordings_by_path(wav_folder):
    columns = {"audio": [str(wav_folder / f"{index}.wav") for index in range(5)]}
    assert_known(DatasetProfile.from_huggingface(huggingface(columns, audio="audio")))


def test_a_resampled_view_and_a_selection(wav_folder):
    import datasets

    columns = {"audio": [str(wav_folder / f"{index}.wav") for index in range(5)]}
    dataset = huggingface(columns, audio="audio").cast_column("audio", datasets.Audio(sampling_rate=16_000))
    assert DatasetProfile.from_huggingface(dataset.select([4, 0])).quantile_seconds == (0.5, 4.0)


def test_a_duration_column():
    profile = DatasetProfile.from_huggingface(huggingface({"duration": SECONDS, "text": ["ab cd"] * 5}))
    assert_known(profile)
    assert profile.labels_per_second == pytest.approx(25 / 8.75)


def test_missing_durations_are_counted():
    profile = DatasetProfile.from_huggingface(huggingface({"duration": [1.0, None, 2.0], "text": ["ab", "cd", None]}))
    assert (profile.quantile_seconds, profile.unreadable) == ((1.0, 2.0), 1)


def test_waveforms_ready_for_a_model():
    columns = {"input_values": [[0.0] * round(16_000 * s) for s in SECONDS], "labels": [[1, 2]] * 5}
    profile = DatasetProfile.from_huggingface(huggingface(columns))
    assert_known(profile)
    assert profile.labels_per_second == pytest.approx(10 / 8.75)
    assert profile.size_bytes >= 8.75 * 16_000 * 4


def test_dictionaries_of_arrays():
    rows = [{"array": [0.0] * round(RATE_HZ * s), "sampling_rate": RATE_HZ} for s in SECONDS]
    profile = DatasetProfile.from_huggingface(huggingface({"speech": rows}))
    assert_known(profile)
    assert profile.sample_rate == RATE_HZ


def test_a_formatted_dataset_is_not_decoded():
    """A transform that raises shows that no row is ever taken the usual way."""

    def explode(_):
        raise AssertionError("decoded")

    columns = {"audio": [{"bytes": wav_bytes(s), "path": None} for s in SECONDS]}
    dataset = huggingface(columns, audio="audio")
    dataset.set_transform(explode)
    assert_known(DatasetProfile.from_huggingface(dataset))


def test_unreadable_recordings_are_counted():
    columns = {"audio": [{"bytes": content, "path": None} for content in (wav_bytes(1), b"junk", None)]}
    profile = DatasetProfile.from_huggingface(huggingface(columns, audio="audio"))
    assert (profile.measured, profile.unreadable, profile.utterances) == (1, 2, 3)


def test_an_even_sample_of_rows():
    columns = {"input_values": [[0.0] * (100 + index) for index in range(1001)]}
    profile = DatasetProfile.from_huggingface(huggingface(columns), max_probes=11)
    assert (profile.measured, profile.utterances) == (11, 1001)
    assert profile.min_seconds == pytest.approx(100 / 16_000)
    assert profile.max_seconds == pytest.approx(1100 / 16_000)


def test_the_training_split_of_several():
    import datasets

    both = datasets.DatasetDict(test=huggingface({"duration": [9.0]}), train=huggingface({"duration": SECONDS}))
    assert_known(DatasetProfile.from_huggingface(both))


def test_a_dataset_without_audio():
    with pytest.raises(DataError, match="received the columns words"):
        DatasetProfile.from_huggingface(huggingface({"words": ["a"]}))


@pytest.mark.parametrize("dataset", [[1, 2], "a path", None])
def test_what_is_no_dataset(dataset):
    with pytest.raises(DataError, match=r"datasets\.Dataset"):
        DatasetProfile.from_huggingface(dataset)


def test_a_streaming_dataset_is_explained():
    streaming = huggingface({"duration": SECONDS}).to_iterable_dataset()
    with pytest.raises(DataError, match="from_durations"):
        DatasetProfile.from_huggingface(streaming)


def test_a_saved_dataset_is_a_source(tmp_path):
    columns = {"audio": [{"bytes": wav_bytes(s), "path": None} for s in SECONDS], "sentence": ["ab cd"] * 5}
    huggingface(columns, audio="audio").save_to_disk(str(tmp_path / "saved"))
    assert_known(DatasetProfile.from_manifest(tmp_path / "saved"))


def test_real_speech(shared):
    folder = shared / "corpora" / "common_voice_vi"
    profile = DatasetProfile.from_manifest(folder)
    assert profile.utterances > 10
    assert 0.5 < profile.mean_seconds < 15
    assert 5 < profile.labels_per_second < 30
    assert profile.unreadable == 0
