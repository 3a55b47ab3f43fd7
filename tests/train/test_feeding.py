from __future__ import annotations

import json
import shutil

import pytest
from rich.console import Console
from safetensors.torch import load_file

from myna.config import load_config
from myna.errors import FeedError
from myna.train import feeding
from myna.train.feeding import redis_url, run_name, without_password
from myna.train.run import resumed_config, train

SMALL = [
    *(
        "model.d_model=16",
        "model.num_encoder_layers=1",
        "model.num_heads=2",
        "model.d_ff=32",
        "model.conv_kernel_size=7",
    ),
    *("features.n_mels=20", "training.max_steps=6", "training.eval_strategy=no", "training.save_strategy=steps"),
    *("training.save_steps=3", "training.logging_steps=1", "training.dataloader_num_workers=0"),
    *("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=1"),
    *("training.max_duration_seconds=30", "training.bf16=false", "training.fp16=false"),
    *("training.gradient_checkpointing=false", "training.per_device_eval_batch_size=4"),
    "augment=[{type: speed}, {type: noise}]",
]


def losses(run) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_an_embedded_redis_and_own_producers_change_no_bit(tone_catalog, tmp_path):
    for name, more in (("local", []), ("redis", ["feed.home=redis", "feed.redis_url=embedded", "feed.producers=1"])):
        config = load_config([], [*SMALL, *more, f"data.db={tone_catalog}", f"training.output_dir={tmp_path / name}"])
        train(config, console=Console(quiet=True))
    assert losses(tmp_path / "redis") == losses(tmp_path / "local")
    here, there = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("local", "redis"))
    assert all((here[key] == there[key]).all() for key in here)
    # and a resumed run goes on where it was
    shutil.rmtree(tmp_path / "redis" / "checkpoint-6")
    (tmp_path / "redis" / "last").unlink()
    (tmp_path / "redis" / "last").symlink_to("checkpoint-3")
    train(resumed_config(str(tmp_path / "redis")), resume=str(tmp_path / "redis"), console=Console(quiet=True))
    assert losses(tmp_path / "redis") == losses(tmp_path / "local")


@pytest.mark.slow
def test_own_producers_that_cannot_work_end_the_run(tone_catalog, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("myna.feed.redis.feed.LONELY_SECONDS", 0.5)
    own = feeding.start_producers
    monkeypatch.setattr(feeding, "start_producers", lambda *given, **named: own(*given, **named | {"db": "/gone.db"}))
    more = ["feed.home=redis", "feed.redis_url=embedded", "feed.producers=1"]
    config = load_config([], [*SMALL, *more, f"data.db={tone_catalog}", f"training.output_dir={tmp_path / 'run'}"])
    with pytest.raises(FeedError, match="have ended"):
        train(config, console=Console(quiet=True))
    assert "/gone.db" in capfd.readouterr().err


def test_the_run_is_named_after_its_folder():
    assert run_name(load_config([], ["training.output_dir=runs/tiếng việt"])) == "ti-ng-vi-t"
    assert run_name(load_config([], ["training.output_dir=runs/first", "feed.run=mine"])) == "mine"


def test_the_address_comes_from_the_configuration_then_the_environment(monkeypatch):
    monkeypatch.delenv("MYNA_REDIS_URL", raising=False)
    assert redis_url(load_config([], [])) == "redis://localhost:6379/0"
    monkeypatch.setenv("MYNA_REDIS_URL", "redis://env:1/0")
    assert redis_url(load_config([], [])) == "redis://env:1/0"
    assert redis_url(load_config([], ["feed.redis_url=redis://given:2/0"])) == "redis://given:2/0"


def test_passwords_are_not_kept():
    secret = load_config([], ["feed.redis_url=rediss://me:hush@host:1/0"])
    assert "hush" not in without_password(secret).to_yaml()
    plain = load_config([], ["feed.redis_url=redis://host:1/0"])
    assert without_password(plain) == plain
