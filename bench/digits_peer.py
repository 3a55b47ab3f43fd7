"""Spoken digits from scratch against SpeechBrain's CTC recipe (TIMIT): WER on a voice never heard, by time.

Same data, same cores, one after the other. Prints one JSON line. The recipe's values are its own (CRDNN, 40 mel bands,
Adadelta, NewBob, its augmentations with white noise for the noise it downloads, batches of 8 sorted by length); its
phones are letters here, or whole words with `--units word`, as our preset has them.

Needs `pip install speechbrain torchaudio`, beside a torch that torchaudio fits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from myna.audio.decode import decode
from myna.data.catalog import Catalog
from myna.metrics import Scores, score
from myna.samples import Utterance

CORPUS = Path(__file__).resolve().parents[2] / "shared/corpora/digits_en"
BATCH = 8
EPOCHS = 50
GOALS = (30, 20, 15, 10)  # WER, percent
RATE_HZ = 16_000


def myna(*arguments: str) -> str:
    """What the command line printed."""
    return subprocess.run([sys.executable, "-m", "myna", *arguments], check=True, capture_output=True, text=True).stdout


def ours(db: Path, run: Path) -> dict[str, object]:
    """`myna train --config digits` as it is: the validation curve by time, and the test score."""
    began = time.time()
    myna("train", "--config", "digits", f"data.db={db}", f"training.output_dir={run}")
    seconds = time.time() - began
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [
        (round((row["time"] - began) / 60, 2), round(100 * row["eval_wer"], 1)) for row in rows if "eval_wer" in row
    ]
    report = json.loads(myna("evaluate", str(run), "--db", str(db), "--json"))
    test = round(100 * report["scores"]["normalized"]["wer"], 1)
    return {"minutes": round(seconds / 60, 2), "test_wer": test, **goals(curve), "curve": curve}


def goals(curve: list[tuple[float, float]]) -> dict[str, object]:
    """Minutes until each goal was reached on the validation split; None: never."""
    reached = {goal: next((minutes for minutes, wer in curve if wer <= goal), None) for goal in GOALS}
    return {"best_valid_wer": min(wer for _, wer in curve), "minutes_to": reached}


class Peer:
    """SpeechBrain's recipe, from its own parts."""

    def __init__(self, texts: list[str], units: str) -> None:
        from speechbrain.augment.augmenter import Augmenter
        from speechbrain.augment.time_domain import AddNoise, DropChunk, DropFreq, SpeedPerturb
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.CRDNN import CRDNN
        from speechbrain.nnet.linear import Linear
        from speechbrain.nnet.schedulers import NewBobScheduler
        from speechbrain.processing.features import InputNormalization

        torch.manual_seed(1986)
        self.split = list if units == "letter" else str.split
        self.join = "" if units == "letter" else " "
        self.units = ["", *sorted({unit for text in texts for unit in self.split(text)})]  # the blank is 0
        self.features = Fbank(sample_rate=RATE_HZ, n_fft=400, n_mels=40)
        self.normalize = InputNormalization(norm_type="global")
        model = CRDNN(
            input_size=40,
            activation=torch.nn.LeakyReLU,
            dropout=0.15,
            cnn_blocks=2,
            cnn_channels=(128, 256),
            cnn_kernelsize=(3, 3),
            time_pooling=True,
            rnn_layers=4,
            rnn_neurons=512,
            rnn_bidirectional=True,
            dnn_blocks=2,
            dnn_neurons=512,
        )
        head = Linear(input_size=512, n_neurons=len(self.units), bias=True)
        self.model = torch.nn.Sequential(model, head)
        self.optimizer = torch.optim.Adadelta(self.model.parameters(), lr=1.0, rho=0.95, eps=1e-8)
        self.scheduler = NewBobScheduler(1.0, annealing_factor=0.8, improvement_threshold=0.0025)
        noise, speed = AddNoise(snr_low=0, snr_high=15), SpeedPerturb(RATE_HZ, speeds=[95, 100, 105])
        frequencies = DropFreq(drop_freq_low=0, drop_freq_high=1, drop_freq_count_low=1, drop_freq_count_high=3)
        chunks = DropChunk(drop_length_low=1000, drop_length_high=2000, drop_count_low=1, drop_count_high=5)
        self.augment = Augmenter(
            concat_original=True,
            min_augmentations=4,
            max_augmentations=4,
            augmentations=[noise, speed, frequencies, chunks],
        )

    def log_probs(self, signals: torch.Tensor, lengths: torch.Tensor, epoch: int) -> torch.Tensor:
        """(B, T, V) of signals (B, N) whose lengths (B,) are shares of the longest."""
        features = self.normalize(self.features(signals), lengths, epoch=epoch)
        out: torch.Tensor = self.model(features).log_softmax(dim=-1)
        return out

    def learn(self, batches: list[list[tuple[Utterance, torch.Tensor]]], epoch: int) -> None:
        """One epoch."""
        from speechbrain.nnet.losses import ctc_loss

        self.model.train()
        for batch in batches:
            signals, lengths = padded([signal for _, signal in batch])
            signals, lengths = self.augment(signals, lengths)
            texts = [torch.tensor([self.units.index(unit) for unit in self.split(row.text)]) for row, _ in batch]
            labels, label_lengths = padded(texts)
            labels, label_lengths = self.augment.replicate_labels(labels), self.augment.replicate_labels(label_lengths)
            loss = ctc_loss(self.log_probs(signals, lengths, epoch), labels, lengths, label_lengths, blank_index=0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def wer(self, batches: list[list[tuple[Utterance, torch.Tensor]]], epoch: int) -> float:
        """Percent, normalised, by greedy decoding."""
        from speechbrain.decoders import ctc_greedy_decode

        self.model.eval()
        total = Scores()
        for batch in batches:
            signals, lengths = padded([signal for _, signal in batch])
            with torch.no_grad():
                found = ctc_greedy_decode(self.log_probs(signals, lengths, epoch), lengths, blank_id=0)
            for (row, _), indices in zip(batch, found, strict=True):
                total += score(row.transcript, self.join.join(self.units[index] for index in indices))
        return 100 * total.normalized_words.rate

    def anneal(self, wer: float) -> None:
        """Lower the rate where the validation split no longer gains."""
        from speechbrain.nnet.schedulers import update_learning_rate

        update_learning_rate(self.optimizer, self.scheduler(wer / 100)[1])


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (B, N) and their lengths as shares of the longest."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths / lengths.max()


def peers(db: Path, minutes: float, units: str) -> dict[str, object]:
    """The recipe until its epochs or the minutes are over; the test score is of its best epoch on validation."""
    with Catalog(db) as catalog:
        version = catalog.version("").version_id
        splits = {name: list(catalog.utterances(version, name)) for name in ("train", "valid", "test")}
    began = time.perf_counter()
    batches = {name: loaded(rows) for name, rows in splits.items()}
    peer = Peer([row.text for row in splits["train"]], units)
    curve, best, test = [], float("inf"), float("inf")
    for epoch in range(1, EPOCHS + 1):
        peer.learn(batches["train"], epoch)
        wer = peer.wer(batches["valid"], epoch)
        curve.append((round((time.perf_counter() - began) / 60, 2), round(wer, 1)))
        peer.anneal(wer)
        if wer < best:
            best, test = wer, peer.wer(batches["test"], epoch)
        if time.perf_counter() - began > 60 * minutes:
            break
    parameters = sum(parameter.numel() for parameter in peer.model.parameters())
    return {
        "minutes": curve[-1][0],
        "epochs": len(curve),
        "parameters_millions": round(parameters / 1e6, 1),
        "test_wer": round(test, 1),
        **goals(curve),
        "curve": curve,
    }


def loaded(rows: list[Utterance]) -> list[list[tuple[Utterance, torch.Tensor]]]:
    """Batches from short to long."""
    rows = sorted(rows, key=lambda row: row.duration_seconds)
    clips = [(row, torch.from_numpy(decode(row.audio_path, sample_rate_hz=RATE_HZ).samples)) for row in rows]
    return [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="for the peer")
    parser.add_argument("--units", nargs="+", default=["letter", "word"], choices=["letter", "word"])
    parser.add_argument("--skip-ours", action="store_true")
    told = parser.parse_args()
    if not CORPUS.is_dir():
        sys.exit(f"{CORPUS}: expected the corpus; there is none")
    torch.set_num_threads(os.cpu_count() or 1)
    figures: dict[str, object] = {"bench": "digits_peer", "threads": torch.get_num_threads()}
    with TemporaryDirectory() as name:
        db = Path(name) / "catalog.db"
        myna("prepare", str(CORPUS), "--db", str(db), "data.min_duration_seconds=0.1")
        if not told.skip_ours:
            figures["myna"] = ours(db, Path(name) / "run")
        for units in told.units:
            figures[f"speechbrain_{units}"] = peers(db, told.minutes, units)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
