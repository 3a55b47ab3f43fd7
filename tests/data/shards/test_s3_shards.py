"""Shards in an object store: a real S3 server (moto) in a thread of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from tiny_runs import tiny_work

from myna.audio.addresses import address_of, fetch
from myna.audio.decode import decode
from myna.data.catalog import Catalog
from myna.data.shards.index import ShardIndex
from myna.data.shards.verify import verify
from myna.data.shards.write import write_shards
from myna.errors import AudioError, DataError
from myna.feed.payload import to_bytes
from myna.producer.rebuild import rebuild
from myna.producer.recordings import DataPath
from myna.samples import RefusalReason

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket():
    """A client of a running S3 server with one empty bucket; the environment leads there."""
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="speech")  # s3fs.mkdir names a location, which us-east-1 refuses
        yield client
        client.close()
        server.stop()


@pytest.fixture(scope="module")
def shards(bucket, tone_catalog) -> str:
    write_shards(tone_catalog, "s3://speech/tones", shard_mb=0.3, workers=0)
    return "s3://speech/tones"


def keys(bucket, prefix: str) -> dict[str, bytes]:
    listed = bucket.list_objects_v2(Bucket="speech", Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix): bucket.get_object(Bucket="speech", Key=item["Key"])["Body"].read()
        for item in listed
    }


def test_the_same_files_as_on_a_disk(bucket, shards, tone_catalog, tmp_path):
    write_shards(tone_catalog, tmp_path, shard_mb=0.3, workers=0)
    on_disk = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    del on_disk[".lock"]
    assert keys(bucket, "tones/") == on_disk
    assert verify(shards, workers=0).mismatches == ()


def test_producers_make_the_trainers_batches_from_a_bucket(shards, tone_catalog):
    work, spec = tiny_work(tone_catalog)
    there = rebuild(spec, DataPath(shards=shards))
    for number in range(0, work.per_epoch, 5):
        assert to_bytes(there.make(number)) == to_bytes(work.make(number))


def test_reading_back(shards, tone_catalog):
    index = ShardIndex(shards + "/")
    with Catalog(tone_catalog) as catalog:
        assert index.version_id == catalog.version().version_id
        expected = list(catalog.utterances(split="train"))
    found = index.utterances("train")
    assert [replace(u, audio_path="") for u in found] == [replace(u, audio_path="") for u in expected]
    assert fetch([u.audio_path for u in found]) == [Path(u.audio_path).read_bytes() for u in expected]
    clip = decode(found[0].audio_path, duration_seconds=found[0].duration_seconds)
    assert clip.samples.tolist() == decode(expected[0].audio_path).samples.tolist()


def test_a_second_run_makes_what_is_missing_only(bucket, shards, tone_catalog):
    before = keys(bucket, "tones/")
    bucket.delete_object(Bucket="speech", Key="tones/train/shard-000000.tar")
    bucket.delete_object(Bucket="speech", Key="tones/manifest.json")
    with pytest.raises(DataError, match=r"expected shards with a manifest\.json"):
        ShardIndex(shards)
    report = write_shards(tone_catalog, shards, shard_mb=0.3, workers=0)
    assert report.made == 1
    assert keys(bucket, "tones/") == before


def test_processes_upload_too(bucket, shards, tone_catalog):
    write_shards(tone_catalog, "s3://speech/parallel", shard_mb=0.3, workers=2)
    assert keys(bucket, "parallel/") == keys(bucket, "tones/")
    assert verify("s3://speech/parallel", workers=2).mismatches == ()


def test_damage_is_named(bucket, shards, tone_catalog):
    write_shards(tone_catalog, "s3://speech/damaged", shard_mb=0.3, workers=0)
    key = "damaged/train/shard-000000.tar"
    content = bytearray(bucket.get_object(Bucket="speech", Key=key)["Body"].read())
    content[5] ^= 1
    bucket.put_object(Bucket="speech", Key=key, Body=bytes(content))
    bucket.delete_object(Bucket="speech", Key="damaged/train/shard-000001.tar")
    problems = " ".join(verify("s3://speech/damaged", workers=0).mismatches)
    assert "train/shard-000000.tar: expected sha256" in problems
    assert "train/shard-000001.tar: expected" in problems


def test_failures_have_their_reasons(bucket, shards, monkeypatch):
    tar = f"{shards}/train/shard-000000.tar"
    size = bucket.head_object(Bucket="speech", Key="tones/train/shard-000000.tar")["ContentLength"]
    asked = [
        address_of(tar, 0, 5),
        address_of(f"{shards}/no.tar", 0, 5),
        address_of(tar, size - 2, 5),
        address_of(tar, size + 2, 5),
        address_of("s3://nobody/no.tar", 0, 5),
    ]
    received = fetch(asked)
    assert len(received[0]) == 5
    reasons = [answer.reason for answer in received[1:] if isinstance(answer, AudioError)]
    missing, truncated = RefusalReason.MISSING_FILE, RefusalReason.TRUNCATED
    assert reasons == [missing, truncated, truncated, missing]


def test_no_network_is_said(bucket, tone_catalog, monkeypatch):
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    (answer,) = fetch(["s3://speech/tones/train/shard-000000.tar#0+5"])
    assert isinstance(answer, AudioError)
    assert answer.reason == RefusalReason.UNREADABLE
    assert "127.0.0.1:9" in answer.detail
    with pytest.raises(DataError, match="AWS_ENDPOINT_URL"):
        write_shards(tone_catalog, "s3://speech/unreachable", workers=0)
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_bucket_that_is_not_there(bucket, tone_catalog):
    with pytest.raises(DataError, match=r"s3://nobody/x/.*Check the address"):
        write_shards(tone_catalog, "s3://nobody/x", workers=0)
