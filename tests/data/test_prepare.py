from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_corpus

from myna.data.catalog import Catalog
from myna.data.prepare import PrepareSettings, prepare
from myna.errors import DataError
from myna.samples import RefusalReason


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write_corpus(tmp_path / "corpus", clips_per_speaker=4)


def append(corpus: Path, *lines: str) -> None:
    with (corpus / "metadata.csv").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def refusals(db: Path) -> dict[str, RefusalReason]:
    with Catalog(db) as catalog:
        return {Path(refusal.audio_path).name: refusal.reason for refusal in catalog.refusals()}


def test_a_second_run_decodes_nothing_and_makes_no_version(corpus, tmp_path):
    first = prepare([corpus], tmp_path / "a.db", workers=0)
    again = prepare([corpus], tmp_path / "a.db", workers=0)
    assert (first.is_new, first.decoded, first.cached) == (True, 16, 0)
    assert (again.is_new, again.decoded, again.cached) == (False, 0, 16)
    assert again.version == first.version
    assert first.splits == {"train": 8, "test": 4, "valid": 4}
    with Catalog(tmp_path / "a.db") as catalog:
        assert len(catalog.versions()) == 1


def test_only_what_changed_is_decoded(corpus, tmp_path):
    first = prepare([corpus], tmp_path / "a.db", workers=0)
    samples, rate_hz = soundfile.read(corpus / "clips/ann_0.wav")
    soundfile.write(corpus / "clips/ann_0.wav", samples[:-800], rate_hz)
    second = prepare([corpus], tmp_path / "a.db", workers=0)
    assert (second.is_new, second.decoded, second.cached) == (True, 1, 15)
    assert second.version != first.version
    with Catalog(tmp_path / "a.db") as catalog:
        assert [version.version_id for version in catalog.versions()] == [first.version, second.version]
        changed = set(catalog.utterances(first.version)) ^ set(catalog.utterances(second.version))
        assert {Path(utterance.audio_path).name for utterance in changed} == {"ann_0.wav"}


def test_other_limits_need_no_decoding(corpus, tmp_path):
    prepare([corpus], tmp_path / "a.db", workers=0)
    stricter = prepare([corpus], tmp_path / "a.db", PrepareSettings(max_duration_seconds=1.2), workers=0)
    assert stricter.decoded == 0
    assert stricter.refusals["too_long"] > 0


def test_a_failure_is_remembered_until_what_it_depends_on_changes(corpus, tmp_path):
    (corpus / "clips/text.wav").write_text("no audio" * 100)
    soundfile.write(corpus / "clips/long.wav", np.sin(np.arange(48_000)) / 2, 16_000)
    append(corpus, "clips/text.wav,abc,train,ann,en", "clips/long.wav,abc,train,ann,en", "clips/none.wav,abc,train,,")
    limits = PrepareSettings(max_duration_seconds=2.9)
    assert prepare([corpus], tmp_path / "a.db", limits, workers=0).decoded == 19
    assert prepare([corpus], tmp_path / "a.db", limits, workers=0).decoded == 1  # the missing one is looked for again
    wider = prepare([corpus], tmp_path / "a.db", workers=0)
    assert wider.decoded == 3
    assert wider.refusals == {"missing_file": 1, "unreadable": 1}


def test_the_same_data_elsewhere_in_another_order_is_the_same_version(corpus, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(corpus, moved)
    header, *lines = (moved / "metadata.csv").read_text().splitlines()
    (moved / "metadata.csv").write_text("\n".join([header, *reversed(lines)]) + "\n")
    first = prepare([corpus], tmp_path / "a.db", workers=0)
    elsewhere = prepare([moved], tmp_path / "b.db", workers=0)
    assert elsewhere.version == first.version
    shutil.rmtree(corpus)
    again = prepare([moved], tmp_path / "a.db", workers=0)  # into the first catalog: its paths follow
    assert (again.version, again.is_new) == (first.version, False)
    with Catalog(tmp_path / "a.db") as catalog:
        assert all(Path(utterance.audio_path).is_file() for utterance in catalog.utterances(first.version))


@pytest.mark.parametrize("old_and_new", [("ann,en", "bob,en"), (",en", ",vi"), ("train", "test"), ("a", "b")])
def test_every_part_of_the_content_is_in_the_id(corpus, tmp_path, old_and_new):
    first = prepare([corpus], tmp_path / "a.db", workers=0)
    header, line, *lines = (corpus / "metadata.csv").read_text().splitlines()
    path, rest = line.split(",", 1)
    changed = f"{path},{rest.replace(*old_and_new)}" if old_and_new != ("a", "b") else f"{path},b{rest}"
    assert changed != line
    (corpus / "metadata.csv").write_text("\n".join([header, changed, *lines]) + "\n")
    assert prepare([corpus], tmp_path / "a.db", workers=0).version != first.version


def test_a_prepared_version_becomes_the_newest_again(corpus, tmp_path):
    first = prepare([corpus], tmp_path / "a.db", workers=0)
    prepare([corpus], tmp_path / "a.db", PrepareSettings(min_duration_seconds=1.0), workers=0)
    prepare([corpus], tmp_path / "a.db", workers=0)
    with Catalog(tmp_path / "a.db") as catalog:
        assert catalog.version().version_id == first.version


def test_duplicates_keep_the_test_set_whole(corpus, tmp_path):
    shutil.copy(corpus / "clips/dot_0.wav", corpus / "clips/copy.wav")
    append(corpus, "clips/copy.wav,aaa,train,ann,en", "clips/dot_0.wav,aaa,train,ann,en")
    report = prepare([corpus], tmp_path / "a.db", workers=0)
    assert report.refusals == {"duplicate": 2}
    assert report.splits["test"] == 4
    with Catalog(tmp_path / "a.db") as catalog:
        details = {refusal.detail for refusal in catalog.refusals()}
    assert details == {f"the same audio as {corpus / 'clips/dot_0.wav'}"}


def test_segments_of_one_file(corpus, tmp_path):
    rate_hz = 16_000
    tone = 0.5 * np.sin(np.arange(10 * rate_hz) * np.linspace(0.1, 0.4, 10 * rate_hz))
    folder = tmp_path / "kaldi"
    folder.mkdir()
    soundfile.write(folder / "long.wav", tone, rate_hz)
    (folder / "wav.scp").write_text("rec long.wav\n")
    (folder / "text").write_text("a one\nb two\nc three\nd four\n")
    (folder / "segments").write_text("a rec 0 2\nb rec 2 5.5\nc rec 8 -1\nd rec 0 2.0\n")
    report = prepare([folder], tmp_path / "a.db", PrepareSettings(max_duration_seconds=5, test_ratio=0), workers=0)
    assert report.refusals == {"duplicate": 1}
    with Catalog(tmp_path / "a.db") as catalog:
        found = {(u.text, u.offset_seconds, u.duration_seconds) for u in catalog.utterances()}
        assert {figure.bytes for figure in catalog.statistics().values()} == {(folder / "long.wav").stat().st_size}
    assert found & {("one", 0, 2), ("four", 0, 2)}
    assert found - {("one", 0, 2), ("four", 0, 2)} == {("two", 2, 3.5), ("three", 8, 2)}


def test_feasibility_sees_the_train_texts_and_refuses_by_name(corpus, tmp_path):
    seen = {}

    def feasibility(train_texts):
        seen["texts"] = list(train_texts)

        def judge(utterance):
            seen.setdefault("splits", set()).add(utterance.split)
            if utterance.speaker_id == "dot":
                return RefusalReason.CTC_INFEASIBLE, f"expected 9 frames; received {len(utterance.text)}"
            return None

        return judge

    report = prepare([corpus], tmp_path / "a.db", feasibility=feasibility, workers=0)
    assert len(seen["texts"]) == 8
    assert seen["splits"] == {"train", "valid", "test"}
    assert report.refusals == {"ctc_infeasible": 4}
    assert report.splits == {"train": 8, "valid": 4}
    assert set(refusals(tmp_path / "a.db")) == {f"dot_{number}.wav" for number in range(4)}


def test_sources_add_up(corpus, tmp_path):
    other = write_corpus(tmp_path / "other", clips_per_speaker=3, seed=1)
    report = prepare([corpus, other], tmp_path / "a.db", workers=0)
    assert sum(report.splits.values()) == 28
    swapped = prepare([other, corpus], tmp_path / "a.db", workers=0)
    assert swapped.version == report.version


def test_nothing_usable_says_why_and_stores_no_version(tmp_path):
    (tmp_path / "metadata.csv").write_text("path,text\na.wav,hi\nb.wav,ho\n")
    with pytest.raises(DataError, match=r"received 2 missing_file, such as\n  - .*/a.wav: missing_file: "):
        prepare([tmp_path], tmp_path / "a.db", workers=0)
    with Catalog(tmp_path / "a.db") as catalog:
        assert catalog.versions() == []


def test_progress_counts_up_to_the_total(corpus, tmp_path):
    calls = []
    prepare([corpus], tmp_path / "a.db", workers=0, progress=lambda *call: calls.append(call))
    assert calls[0] == ("read", 16, 0)
    assert [call for call in calls if call[0] == "decode"] == [("decode", n, 16) for n in range(1, 17)]
    assert calls[-1] == ("store", 0, 16)


def test_refusals_of_a_known_version_are_renewed(corpus, tmp_path):
    prepare([corpus], tmp_path / "a.db", workers=0)
    append(corpus, "clips/none.wav,abc,train,ann,en")
    assert not prepare([corpus], tmp_path / "a.db", workers=0).is_new
    assert refusals(tmp_path / "a.db") == {"none.wav": RefusalReason.MISSING_FILE}


@pytest.mark.slow
def test_a_crashing_decoder_is_named_and_tried_again_next_time(corpus, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\nimport myna.data.clips as clips\n"
        "from myna.data.prepare import prepare\n"
        "healthy = clips.decode\n"
        "def decode(path, **options):\n"
        "    if path.endswith('bob_2.wav'): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return healthy(path, **options)\n"
        "clips.decode = decode\n"  # the worker processes run this file, too
        "if __name__ == '__main__':\n    prepare([sys.argv[1]], sys.argv[2], workers=2)\n"
    )
    subprocess.run([sys.executable, script, corpus, tmp_path / "a.db"], check=True)
    assert refusals(tmp_path / "a.db") == {"bob_2.wav": RefusalReason.UNREADABLE}
    report = prepare([corpus], tmp_path / "a.db", workers=0)
    assert (report.decoded, report.cached, report.refusals) == (1, 15, {})


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_the_catalog_whole_and_goes_on_later(tmp_path, kill):
    corpus = write_corpus(tmp_path / "corpus", clips_per_speaker=120)
    earlier = tmp_path / "earlier"
    write_corpus(earlier, clips_per_speaker=4, seed=5)
    before = prepare([earlier], tmp_path / "a.db", workers=0)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom myna.data.prepare import prepare\n"
        "def tell(stage, done, total):\n"
        "    if stage == 'decode' and done == 300: print('far enough', flush=True)\n"
        "if __name__ == '__main__':\n    prepare([sys.argv[1]], sys.argv[2], workers=1, progress=tell)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script, corpus, tmp_path / "a.db"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "far enough\n"
    os.kill(process.pid, kill)
    process.communicate(timeout=30)
    assert process.returncode != 0
    with Catalog(tmp_path / "a.db") as catalog:
        assert [version.version_id for version in catalog.versions()] == [before.version]
    began = time.monotonic()
    report = prepare([corpus], tmp_path / "a.db", workers=0)
    assert report.cached >= 200
    assert report.decoded + report.cached == 480
    assert time.monotonic() - began < 60
