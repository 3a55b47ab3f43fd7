from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from clips import SmallProcessor, write_clips
from rich.console import Console
from safetensors.torch import load_file

from myna.config import load_config
from myna.errors import FeedError
from myna.samples import Utterance
from myna.train import feeding
from myna.train.feeding import feed_spec, redis_url, run_name, training_batches, with_step_seconds, without_password
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


def ranks_of(world_size: int) -> SimpleNamespace:
    return SimpleNamespace(world_size=world_size, gradient_accumulation_steps=1)


def test_a_run_resumed_on_fewer_ranks_has_the_same_steps(tmp_path):
    config, ranks = load_config([], SMALL), [ranks_of(2), ranks_of(1)]
    before = training_batches(config, write_clips(tmp_path), SmallProcessor(), ranks[0])
    (tmp_path / "config.yaml").write_text(with_step_seconds(config, before).to_yaml())
    after = training_batches(
        load_config([str(tmp_path / "config.yaml")]), before.utterances, SmallProcessor(), ranks[1]
    )
    assert (before.parts, after.parts) == (2, 1)
    assert [step.tolist() for step in after.plan(0).steps] == [step.tolist() for step in before.plan(0).steps]


def test_ranks_share_the_limit_of_a_home_on_this_machine():
    args = SimpleNamespace(world_size=4, process_index=1, dataloader_num_workers=0)
    config = load_config([], ["feed.max_memory_gb=0.001", "training.max_steps=1"])
    work = SimpleNamespace(parts=4, steps_per_epoch=1)
    settings = SimpleNamespace(max_steps=1, **vars(args))
    with feeding.open_feed(config, work, settings, feed_spec, 0, Console(quiet=True)) as feed:
        assert feed.status().limit_bytes == int(0.001 * 1024**3 / 4)


def test_nothing_slow_lies_between_the_start_of_producers_and_the_publication(monkeypatch):
    """For a minute after a run's end its producers are sent home: those of a resumed one must not come too early."""
    seen = []

    def start(*_, **__):
        seen.append("started")
        raise KeyboardInterrupt

    monkeypatch.setattr(feeding, "start_producers", start)
    config = load_config([], ["feed.home=redis", "feed.producers=1", "feed.redis_url=redis://127.0.0.1:1/0"])
    args = SimpleNamespace(world_size=1, process_index=0)
    with (
        pytest.raises(KeyboardInterrupt),
        feeding.open_feed(config, None, args, lambda: seen.append("described"), 0, Console(quiet=True)),
    ):
        pass
    assert seen == ["described", "started"]


def test_shards_in_a_folder_with_a_hash_in_its_name_stay_apart(tmp_path):
    addresses = [f"{tmp_path}/c#1/train/shard-{number:06d}.tar#512+100" for number in (0, 0, 1)]
    utterances = [Utterance(f"id{number}", address, "a", "a", 1.0, "train") for number, address in enumerate(addresses)]
    config = load_config([], ["data.shards=c#1", "feed.step_seconds=4", *SMALL])
    work = training_batches(config, utterances, SmallProcessor(), ranks_of(1))
    assert work.shard_of.tolist() == [0, 0, 1]


def test_the_run_is_named_after_its_folder():
    assert run_name(load_config([], ["training.output_dir=runs/tiếng việt"])) == "ti-ng-vi-t"
    assert run_name(load_config([], ["training.output_dir=runs/first", "feed.run=mine"])) == "mine"


def test_the_address_comes_from_the_configuration_then_the_environment(monkeypatch):
    monkeypatch.delenv("MYNA_REDIS_URL", raising=False)
    assert redis_url(load_config([], [])) == "redis://localhost:6379/0"
    monkeypatch.setenv("MYNA_REDIS_URL", "redis://env:1/0")
    assert redis_url(load_config([], [])) == "redis://env:1/0"
    assert redis_url(load_config([], ["feed.redis_url=redis://given:2/0"])) == "redis://given:2/0"


@pytest.mark.parametrize("url", ["rediss://me:hush@host:1/0", "redis://h:1/0?password=hush", "redis://:hush/@h:1/0"])
def test_passwords_are_not_kept(url):
    assert "hush" not in without_password(load_config([], [f"feed.redis_url={url}"])).to_yaml()
    plain = load_config([], ["feed.redis_url=redis://host:1/0"])
    assert without_password(plain) == plain
