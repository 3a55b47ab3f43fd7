"""Kill -9 producers, trainer and Redis at random moments while producers go 1 -> 4 -> 2: nothing must come of it.

Trains a small CTC model through `myna train`, once undisturbed without a server and once in chaos. The final weights
and every loss must be the same bit for bit, and every utterance of every epoch must be used exactly once. Redis comes
back empty, the trainer is resumed. Prints one JSON line; exit status 1 when something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import redis

from myna.producer.embedded import find_server

CORPUS = Path(__file__).resolve().parents[2] / "shared/corpora/common_voice_en"
RUN = "chaos"
SETTINGS = [  # with nothing left for the planner, which would take longer than the training
    *("model.d_model=48", "model.num_encoder_layers=2", "model.d_ff=96", "model.conv_kernel_size=7"),
    *("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2"),
    *("training.per_device_eval_batch_size=4", "training.max_duration_seconds=30", "training.dataloader_num_workers=0"),
    *("training.bf16=false", "training.fp16=false", "training.gradient_checkpointing=false"),
    *("training.eval_strategy=no", "training.save_strategy=steps", "training.logging_steps=1"),
    "augment=[{type: speed}, {type: noise}, {type: volume}, {type: spec_augment}]",
]
KINDS = ("producer", "trainer", "producer", "redis")
LIMIT_GB = 0.03  # small enough to be full now and then
PRODUCERS = (1, 4, 2)  # at the start, and after one and two thirds of the time
SLACK_SECONDS = 600.0  # for what is left to train when the chaos is over


class Command:
    """A process of `myna`, started again and again."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self.environment = environment
        self.process: subprocess.Popen[bytes]

    def start(self, *arguments: str) -> None:
        """Run it; what it says goes to the log."""
        with self.log.open("ab") as log:
            self.said_before = log.tell()
            self.process = subprocess.Popen(
                arguments, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    @property
    def is_importing(self) -> bool:
        """Whether it has not said anything yet."""
        return self.log.stat().st_size == self.said_before

    def kill(self) -> None:
        """As if the power failed."""
        self.process.kill()
        self.process.wait()


class Server:
    """Redis on a port of its own, empty whenever it starts."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        program = shutil.which("redis-server") or find_server()
        self.command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self.start()

    def start(self) -> None:
        """Until it answers."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)

    def kill(self) -> None:
        """It forgets everything."""
        self.process.kill()
        self.process.wait()


class Chaos:
    """A run under attack.

    Args:
        db: catalog to train on.
        folder: for the run and its logs.
        settings: of the training.
        rng: draws moments and victims.
    """

    def __init__(self, db: Path, folder: Path, settings: list[str], rng: np.random.Generator) -> None:
        self.db = db
        self.run = folder / RUN
        self.settings = settings
        self.rng = rng
        self.kills: Counter[str] = Counter()
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.server = Server(folder)
        self.logs = folder
        self.trainer = Command(folder / "trainer.log", self.environment)
        self.producers: list[Command] = []

    def train(self) -> None:
        """Start the trainer, from its newest checkpoint if there is one."""
        if any(self.run.glob("checkpoint-*")):
            self.trainer.start(*trainer_command(self.logs / "chaos.ids"), "train", "--resume", str(self.run))
            return
        shutil.rmtree(self.run, ignore_errors=True)
        feed = ["feed.home=redis", f"feed.redis_url={self.server.url}", f"feed.max_memory_gb={LIMIT_GB}"]
        places = [f"data.db={self.db}", f"training.output_dir={self.run}", "feed.lease_seconds=3"]
        self.trainer.start(*trainer_command(self.logs / "chaos.ids"), "train", *self.settings, *feed, *places)

    def set_producers(self, count: int) -> None:
        """So many; those too many are asked to end."""
        for command in self.producers[count:]:
            command.process.send_signal(signal.SIGTERM)
            if command.process.wait(60) != 0 and not command.is_importing:  # that one has nothing to finish
                raise SystemExit(f"a producer did not end well: see {command.log}")
        del self.producers[count:]
        while len(self.producers) < count:
            command = Command(self.logs / f"producer-{len(self.producers)}.log", self.environment)
            self.produce(command)
            self.producers.append(command)

    def produce(self, command: Command) -> None:
        """Start a producer."""
        myna = (sys.executable, "-W", "ignore", "-m", "myna")
        command.start(*myna, "feed", "--redis", self.server.url, "--run", RUN, "--db", str(self.db))

    def kill(self, kind: str) -> None:
        """One victim, which is started again."""
        self.kills[kind] += 1
        if kind == "redis":
            self.server.kill()
            self.server.start()
        elif kind == "trainer":
            self.trainer.kill()
            self.train()
        else:
            self._kill_producer(self.producers[self.rng.integers(len(self.producers))])

    def _kill_producer(self, command: Command) -> None:
        """The process that makes batches, which `myna feed` replaces, or `myna feed` itself."""
        workers = psutil.Process(command.process.pid).children(recursive=True)
        makers = [worker for worker in workers if worker.ppid() != command.process.pid]  # children of its fork server
        if makers and self.rng.random() < 0.5:
            makers[0].kill()
        else:
            command.kill()
            self.produce(command)

    def attack(self, seconds: float, kills: int, total: int) -> None:
        """Kill at a random moment of each of `kills` equal spans of time, or of the run's `total` numbers if sooner."""
        self.train()
        self.set_producers(PRODUCERS[0])
        while not (self.run / "metrics.jsonl").exists():  # nothing can be lost before
            self._wait(time.monotonic() + 0.1)
        began = time.monotonic()
        span = seconds / kills
        kinds = [KINDS[place % len(KINDS)] for place in range(kills)]
        self.rng.shuffle(kinds)
        for place, kind in enumerate(kinds):
            self.set_producers(PRODUCERS[place * len(PRODUCERS) // kills])
            moment = place + self.rng.random()
            until, number = began + span * moment, int(total * moment / (kills + 1))
            while time.monotonic() < until and self.position() < number:
                self._wait(time.monotonic() + 0.05)
                if self.trainer.process.poll() == 0:
                    return
            self.kill(kind)

    def position(self) -> int:
        """The number that the trainer took last; -1 before the first."""
        ids = self.logs / "chaos.ids"
        lines = ids.read_bytes().split(b"\n")[:-1] if ids.exists() else []  # whole ones
        return int(json.loads(lines[-1])[0]) if lines else -1

    def finish(self) -> None:
        """Let the run come to its end; producers go home by themselves."""
        deadline = time.monotonic() + SLACK_SECONDS
        while self.trainer.process.poll() != 0:
            self._wait(time.monotonic() + 0.5)
            if time.monotonic() > deadline:
                raise SystemExit(f"the run did not end: see {self.logs}")
        for command in self.producers:
            command.process.wait(60)

    def _wait(self, until: float) -> None:
        while time.monotonic() < until:
            status = self.trainer.process.poll()
            if status == 0:
                return
            if status is not None:  # Redis was away at the moment when it began
                if b"cannot be reached" not in self.trainer.log.read_bytes()[-2000:]:
                    raise SystemExit(f"the trainer ended with status {status}: see {self.trainer.log}")
                self.train()
            time.sleep(0.05)

    def close(self) -> None:
        """End everything that is still there."""
        for command in (self.trainer, *self.producers):
            if hasattr(command, "process"):
                command.kill()
        self.server.kill()


def trainer_command(ids: Path) -> tuple[str, ...]:
    """`myna`, noting the utterances that it takes."""
    return sys.executable, "-W", "ignore", __file__, "--note-ids", str(ids)


def run_noting_ids(path: Path, arguments: list[str]) -> None:
    """Be `myna`, and write down every batch that the trainer takes: its number, its utterances."""
    from myna.cli.main import main
    from myna.train.loader import Taken

    take = Taken.__getitem__

    def noting(self: Taken, number: int) -> object:
        batch = take(self, number)
        with path.open("a") as file:
            file.write(json.dumps([number, batch.utterance_ids]) + "\n")
        return batch

    Taken.__getitem__ = noting  # type: ignore[method-assign]
    sys.argv = ["myna", *arguments]
    main()


def taken(path: Path) -> dict[int, list[str]]:
    """Utterances by number; a number that was taken again after a resume must have had the same ones."""
    found: dict[int, list[str]] = {}
    for line in path.read_text().splitlines():
        number, ids = json.loads(line)
        if found.setdefault(number, ids) != ids:
            raise SystemExit(f"batch {number} changed")
    return found


def losses(run: Path) -> dict[int, set[float]]:
    """All that was logged for a step: one value, however often it was trained."""
    found = defaultdict(set)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "loss" in row:
            found[row["step"]].add(row["loss"])
    return dict(found)


def weights(run: Path) -> bytes:
    """Of the last checkpoint."""
    return (run / "last" / "model.safetensors").read_bytes()


def is_exactly_once(by_number: dict[int, list[str]], utterances: int) -> bool:
    """Whether whole epochs follow one another, each with every utterance once."""
    used = [utterance for number in sorted(by_number) for utterance in by_number[number]]
    epochs = [used[first : first + utterances] for first in range(0, len(used), utterances)]
    return sorted(by_number) == list(range(len(by_number))) and all(
        len(set(epoch)) == len(epoch) == utterances for epoch in epochs
    )


def measure(db: Path, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Both runs and their differences."""
    settings = [*SETTINGS, f"training.num_train_epochs={options.epochs}", f"training.save_steps={options.save_steps}"]
    calm = folder / "calm"
    command = [*trainer_command(folder / "calm.ids"), "train", *settings]
    command += [f"data.db={db}", f"training.output_dir={calm}", "--json"]
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "calm.log").open("wb") as log:
        outcome = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, env=environment)
    calm_seconds = time.monotonic() - began
    chaos = Chaos(db, folder, settings, np.random.default_rng(options.seed))
    began = time.monotonic()
    try:
        chaos.attack(options.seconds, options.kills, len(taken(folder / "calm.ids")))
        attacked_seconds = time.monotonic() - began
        chaos.finish()
    finally:
        chaos.close()
    by_number = taken(folder / "chaos.ids")
    utterances = len({utterance for ids in by_number.values() for utterance in ids})
    return {
        "kills": dict(chaos.kills),
        "kills_in_all": chaos.kills.total(),
        "seconds": round(time.monotonic() - began, 1),
        "attacked_seconds": round(attacked_seconds, 1),
        "undisturbed_seconds": round(calm_seconds, 1),
        "equal": weights(calm) == weights(chaos.run),
        "losses_equal": losses(calm) == losses(chaos.run) and all(len(v) == 1 for v in losses(calm).values()),
        "batches_equal": by_number == taken(folder / "calm.ids"),
        "exactly_once": is_exactly_once(by_number, utterances),
        "steps": json.loads(outcome.stdout)["steps"],
        "epochs": options.epochs,
        "utterances": utterances,
    }


def main() -> None:
    """Attack and print."""
    if sys.argv[1:2] == ["--note-ids"]:
        run_noting_ids(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, help="catalog to train on; one of common_voice_en by default")
    parser.add_argument("--seconds", type=float, default=180, help="of chaos")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--save-steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for runs and logs; a temporary one by default")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        db = options.db
        if db is None:
            if not CORPUS.is_dir():
                sys.exit(f"{CORPUS}: expected the corpus; there is none")
            db = folder / "catalog.db"
            prepare = [sys.executable, "-m", "myna", "prepare", str(CORPUS), "--db", str(db), "data.language=en"]
            subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        figures = measure(db, folder, options)
    print(json.dumps(figures))
    if not all(figures[name] for name in ("equal", "losses_equal", "batches_equal", "exactly_once")):
        sys.exit(1)


if __name__ == "__main__":
    main()
