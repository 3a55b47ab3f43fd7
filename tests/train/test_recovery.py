"""Runs that run out of memory end where undisturbed ones do, on one rank and on two, also after a resume."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from out_of_memory import TINY, WHERE, in_float64, running_out
from rich.console import Console
from safetensors.torch import load_file

from myna.config import Config, load_config
from myna.errors import ModelError, TrainingError
from myna.models.ctc import CTCRecognizer
from myna.models.memory_limit import MemoryLimit, each_piece
from myna.samples import Batch
from myna.train.checkpoint import step_of
from myna.train.ranks import shared_out
from myna.train.recovery import StepRecovery, step_with_retries
from myna.train.run import resumed_config, train

SCRIPT = Path(__file__).parents[1] / "out_of_memory.py"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
NEAR = 1e-5
STEPS = ["training.max_steps=40", "training.eval_strategy=no", "training.save_strategy=steps"]
STEPS += ["training.save_steps=20", "training.save_total_limit=9"]
ACCUMULATE = ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2"]


def config(catalog: Path, run: Path, *overrides: str) -> Config:
    return load_config([], [*TINY, *STEPS, *ACCUMULATE, f"data.db={catalog}", f"training.output_dir={run}", *overrides])


def quiet() -> Console:
    return Console(quiet=True)


def launch(every: int, rank: int, *overrides: str, ranks: int = 2, fails: bool = False) -> str:
    launcher = TORCHRUN if ranks == 2 else []
    command = [sys.executable, "-W", "ignore", *launcher, str(SCRIPT), str(every), str(rank), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert (done.returncode != 0) is fails, done.stderr[-3000:]
    return done.stderr


def distance(one: Path, other: Path) -> float:
    """The largest difference between any two weights of two runs' last checkpoints."""
    here, there = (load_file(run / "last" / "model.safetensors") for run in (one, other))
    assert here.keys() == there.keys()
    return max(float((here[name] - there[name]).abs().max()) for name in here)


def logged(run: Path, name: str = "loss") -> dict[int, float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in found if name in row}


def forget_after(run: Path, step: int) -> None:
    for checkpoint in run.glob("checkpoint-*"):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def undisturbed(tone_catalog, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(config(tone_catalog, run), console=quiet())
    return run


@pytest.mark.slow
def test_a_run_with_failures_in_a_tenth_of_its_steps_ends_with_the_same_weights(tone_catalog, tmp_path, undisturbed):
    """Without dropout, whose masks are others for halves than for the whole."""
    run = tmp_path / "run"
    spoken = Console(record=True, file=io.StringIO())
    with running_out(every=10) as failures:
        result = train(config(tone_catalog, run), console=spoken)
    assert len(failures.raised) == 4 and set(failures.raised) == set(WHERE)
    assert distance(run, undisturbed) <= NEAR
    assert logged(run) == pytest.approx(logged(undisturbed), rel=NEAR)
    splits = logged(run, "oom_splits")
    assert result.oom_splits == splits[40] > 0
    assert spoken.export_text().count("Memory ran out") == 1
    # a resumed run knows what was learned, and goes on alike
    forget_after(run, 20)
    again = train(resumed_config(str(run)), resume=str(run), console=quiet())
    assert again.oom_splits == splits[20]
    assert distance(run, undisturbed) <= NEAR


@pytest.mark.slow
def test_no_gradient_is_lost_or_counted_twice(tone_catalog, tmp_path):
    """In float32, failures in a fifth of the steps move weights by up to 1.4e-5, by rounding; here there is none."""
    with in_float64():
        train(config(tone_catalog, tmp_path / "whole"), console=quiet())
        with running_out(every=5) as failures:
            train(config(tone_catalog, tmp_path / "cut"), console=quiet())
    assert len(failures.raised) == 8
    assert distance(tmp_path / "cut", tmp_path / "whole") <= 1e-12


@pytest.mark.slow
def test_a_batch_that_is_too_large_for_a_real_limit_of_memory_is_cut(tone_catalog, tmp_path):
    sizes = [f"data.db={tone_catalog}", "model.d_model=128", "model.num_encoder_layers=4", "training.max_steps=3"]
    sizes += ["training.per_device_train_batch_size=64", "training.eval_strategy=no"]
    for name, mebibytes in (("plenty", 100_000), ("little", 160)):
        launch(0, 0, f"ram={mebibytes}", f"training.output_dir={tmp_path / name}", *sizes, ranks=1)
    assert not logged(tmp_path / "plenty", "oom_splits")
    assert logged(tmp_path / "little", "oom_splits")[3] > 0
    assert distance(tmp_path / "plenty", tmp_path / "little") <= NEAR


@pytest.mark.slow
def test_validation_that_does_not_fit_is_cut_too(tone_catalog, tmp_path, monkeypatch):
    settings = ["training.max_steps=2", "training.eval_strategy=steps", "training.eval_steps=2"]
    whole = train(config(tone_catalog, tmp_path / "whole", *settings), console=quiet())
    decode, sizes = CTCRecognizer.decode, []

    def of_few(recognizer, batch, options):
        sizes.append(len(batch.weights))
        if len(batch.weights) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(recognizer, batch, options)

    monkeypatch.setattr(CTCRecognizer, "decode", of_few)
    cut = train(config(tone_catalog, tmp_path / "cut", *settings), console=quiet())
    assert max(sizes) > 3 and cut.best_metric == whole.best_metric and cut.oom_splits == 0
    for name in ("eval_loss", "eval_cer"):
        assert logged(tmp_path / "cut", name) == pytest.approx(logged(tmp_path / "whole", name), rel=NEAR)


@pytest.mark.slow
def test_two_ranks_agree_when_memory_runs_out_on_one(tone_catalog, tmp_path, undisturbed):
    run = tmp_path / "run"
    overrides = [*STEPS, f"data.db={tone_catalog}", f"training.output_dir={run}"]
    overrides += ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=1"]
    launch(10, 1, *overrides)
    assert distance(run, undisturbed) <= NEAR
    assert logged(run, "oom_splits")[40] > 0  # the first rank writes what the second has met


@pytest.mark.slow
def test_both_ranks_end_when_one_cannot_go_on_and_leave_a_checkpoint(tone_catalog, tmp_path, undisturbed):
    run = tmp_path / "run"
    overrides = [*STEPS, f"data.db={tone_catalog}", f"training.output_dir={run}", "training.max_retries=0"]
    overrides += ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=1"]
    said = launch(5, 1, *overrides, fails=True)
    assert said.count("TrainingError: out of memory in the backward pass") == 2
    assert (run / "last").resolve().name == "checkpoint-0"
    launch(0, 0, f"resume={run}", "training.max_retries=5")
    assert distance(run, undisturbed) <= NEAR


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks_and_back(tone_catalog, tmp_path, undisturbed):
    run = tmp_path / "run"
    train(config(tone_catalog, run, "training.save_steps=10"), console=quiet())
    forget_after(run, 10)
    assert "Started on 1 rank, goes on with 2" in launch(0, 0, f"resume={run}")
    assert logged(run) == pytest.approx(logged(undisturbed), rel=NEAR)
    assert distance(run, undisturbed) <= NEAR
    forget_after(run, 20)  # of the two ranks' part, the first half
    train(resumed_config(str(run)), resume=str(run), console=quiet())
    assert logged(run) == pytest.approx(logged(undisturbed), rel=NEAR)
    assert distance(run, undisturbed) <= NEAR
    state = [json.loads((kind / "last" / "trainer_state.json").read_text()) for kind in (run, undisturbed)]
    assert [state[0][name] for name in ("epoch", "global_step")] == [
        state[1][name] for name in ("epoch", "global_step")
    ]


ROWS = 8


def batch_of(*frames: int, start: int = 0) -> Batch:
    lengths = torch.tensor(frames)
    return Batch(
        utterance_ids=tuple(f"clip{row}" for row in range(len(frames))),
        features=torch.arange(start, start + len(frames)).float()[:, None, None].expand(-1, max(frames), 1),
        feature_lengths=lengths,
        labels=torch.zeros((len(frames), 1), dtype=torch.int64),
        label_lengths=torch.ones(len(frames), dtype=torch.int64),
        weights=torch.ones(len(frames)),
        audio_seconds=float(lengths.sum()) / 100,
    )


class Card:
    """Adds up rows in place of gradients; holds so many, and fails in the backward pass with half of its work done."""

    def __init__(self, most: int, where: str = "backward", max_retries: int = 5) -> None:
        self.most = most
        self.where = where
        self.gradient = 0.0
        self.attempts: list[int] = []
        self.draws: dict[tuple[float, ...], float] = {}
        self.recovery = StepRecovery(MemoryLimit(), 0, max_retries, self.forget)

    def forget(self) -> None:
        self.gradient = 0.0

    def forward(self, rows: Batch) -> torch.Tensor:
        key = tuple(rows.features[:, 0, 0].tolist())
        self.attempts.append(len(key))
        drawn = float(torch.rand(()))
        assert self.draws.setdefault(key, drawn) == drawn  # the same draws whenever they are run
        if self.where == "forward" and len(key) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return rows.features[:, 0, 0].sum() + len(key)

    def backward(self, loss: torch.Tensor) -> None:
        if self.where == "backward" and self.attempts[-1] > self.most:
            self.gradient += float(loss) / 2
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.gradient += float(loss)

    def step(self, *batches: Batch) -> float:
        """The loss of a step."""
        self.recovery.begin_step(0)
        losses = [self.recovery.train(b, part, self.forward, self.backward) for part, b in enumerate(batches)]
        return float(sum(losses))


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_every_row_counts_once_in_gradient_and_loss(where, most):
    card = Card(most, where)
    total = card.step(batch_of(*[100] * 2, start=100), batch_of(*[100] * ROWS))
    assert total == card.gradient == 101 + 102 + 36  # each is worth its number and 1


def test_what_failed_shapes_what_comes_later():
    card = Card(4)
    card.step(batch_of(*[100] * ROWS))
    assert card.attempts == [8, 4, 4]
    card.step(batch_of(*[110] * ROWS))
    assert card.attempts[3:] == [4, 4]
    card.step(batch_of(*[20] * ROWS))  # far shorter clips: nothing is known, so it is tried
    assert card.attempts[5:] == [8, 4, 4]
    copy = MemoryLimit()
    copy.load(json.loads(json.dumps(card.recovery.limit.state())))
    assert (copy.failed, copy.fitted, copy.splits) == (card.recovery.limit.failed, card.recovery.limit.fitted, 2)
    assert [len(piece.batch.weights) for piece in copy.pieces(batch_of(*[100] * ROWS))] == [4, 4]


def test_a_failure_of_what_has_fitted_cuts_nothing_later_until_it_comes_again():
    card = Card(8)
    card.step(batch_of(*[100] * ROWS))
    card.most = 4  # another program takes memory
    card.step(batch_of(*[20] * ROWS))
    assert card.recovery.limit.failed == []
    card.most = 8
    card.step(batch_of(*[100] * ROWS))
    assert card.attempts[-1] == 8
    card.most = 4  # for good
    for _ in range(3):
        card.step(batch_of(*[100] * ROWS))
    assert card.attempts[-8:] == [8, 4, 4, 8, 4, 4, 4, 4]


def test_what_was_learned_on_a_machine_of_other_memory_is_only_counted():
    state = MemoryLimit().state() | {"splits": 3, "failed": [{"clips": 1, "frames": 1, "seconds": 1.0}]}
    copy = MemoryLimit()
    copy.load(state | {"memory_bytes": 2 * state["memory_bytes"]})
    assert (copy.splits, copy.failed) == (3, [])


def test_a_clip_that_does_not_fit_is_named_with_what_does():
    card = Card(0)
    with pytest.raises(TrainingError, match=r"clip0 \(1\.0 s\) alone.*nothing has fitted"):
        card.step(batch_of(*[100] * ROWS))
    assert card.attempts == [8, 4, 2, 1, 1]
    card = Card(1, max_retries=1)
    with pytest.raises(TrainingError, match=r"2 clips of 2\.0 s to fit.*1 clip of 1\.0 s.*max_retries"):
        card.step(batch_of(100, start=9), batch_of(*[200] * 4))


def test_other_errors_are_not_taken_for_memory():
    card = Card(8)
    card.recovery.begin_step(0)
    with pytest.raises(RuntimeError, match="inconsistent"):
        card.recovery.train(batch_of(10), 0, card.forward, lambda loss: torch.ones(2) @ torch.ones(3) + loss)


def stepped(fail: int, *, half_way: bool = False) -> tuple[torch.nn.Linear, int]:
    """A layer after an optimizer's step that ran out of memory so often, and the number of attempts."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    attempts = 0

    def step() -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= fail:
            optimizer.state[layer.weight] = {"step": torch.zeros(())}  # made in part, as when memory runs out
            if half_way:
                with torch.no_grad():
                    layer.bias.mul_(0.5)
            raise MemoryError
        optimizer.step()

    step_with_retries(step, optimizer, max_retries=2)
    return layer, attempts


def test_an_optimizers_step_is_begun_anew():
    plain, once = stepped(0)
    layer, attempts = stepped(2)
    assert (once, attempts) == (1, 3)
    assert torch.equal(layer.weight, plain.weight) and torch.equal(layer.bias, plain.bias)


def test_an_optimizer_that_does_not_fit_or_failed_half_way_ends_the_run():
    with pytest.raises(TrainingError, match="optimizer's step: expected"):
        stepped(9)
    with pytest.raises(TrainingError, match="with a part of the weights changed"):
        stepped(1, half_way=True)


def test_a_step_is_dealt_to_any_number_of_ranks():
    assert shared_out(4, 1, 1) == (4, "")
    assert [shared_out(*given)[0] for given in ((4, 1, 2), (2, 2, 1), (4, 1, 3), (1, 1, 4))] == [2, 4, 2, 1]
    assert "2 of a step's 6 micro-batches (4 before" in shared_out(4, 1, 3)[1]


def test_decoding_keeps_the_order_of_rows_and_names_a_clip_that_does_not_fit():
    def of_few(most):
        def run(rows):
            if len(rows.weights) > most:
                raise MemoryError
            return list(rows.utterance_ids)

        return run

    found = [name for _, names in each_piece(batch_of(*[9] * ROWS), of_few(3), MemoryLimit()) for name in names]
    assert found == [f"clip{row}" for row in range(ROWS)]
    with pytest.raises(ModelError, match="CLIP0"):
        list(each_piece(batch_of(*[9] * ROWS), of_few(0), MemoryLimit(), name_of=str.upper))
