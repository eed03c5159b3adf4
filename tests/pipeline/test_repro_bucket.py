"""Data in a bucket under `dvc repro`: DVC needs no S3 of its own, and sees what has changed there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.formats.root import Root
from pipeline.storage import stores
from tests.buckets import BUCKET, make_bucket, variables_of
from tests.coco_data import write_coco
from tests.flaky_s3 import Flaky, running_flaky_s3
from tests.test_experiment import Experiment, copy_house

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # boto3 asks the clock in a way that Python deprecates
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Experiment, Any, Flaky]]:
    """A repository whose data lie in a bucket, a client of the bucket, and its server."""
    folder = tmp_path_factory.mktemp("bucket")
    for split in ("train", "val"):
        write_coco(folder / "mine", split=split, num_images=12)
    with running_flaky_s3() as (address, server):
        client = make_bucket(address)
        for path in (folder / "mine").rglob("*.*"):
            client.upload_file(str(path), BUCKET, str(path.relative_to(folder)))
        experiment = Experiment(folder / "house")
        copy_house(experiment.root)
        experiment.environment |= variables_of(address)
        splits = {split: {"annotations": f"{split}.json", "images": split} for split in ("train", "val")}
        experiment.change("data", format="coco", root=f"s3://{BUCKET}/mine", test=None, **splits)
        experiment.change("evaluate", split="val")
        experiment.run("git", "init", "-q", "-b", "main")
        yield experiment, client, server


def reproduce(experiment: Experiment) -> tuple[bool, str]:
    """Whether `dvc repro prepare` has run prepare, and what it printed."""
    printed = experiment.dvc("repro", "prepare")
    return "Running stage 'prepare'" in printed, printed


def test_changed_bucket_prepares_again_and_an_unchanged_one_does_not(served: tuple[Experiment, Any, Flaky]) -> None:
    experiment, client, _ = served
    assert reproduce(experiment)[0]
    content = json.loads((experiment.root / "data/prepared/train.json").read_text())
    assert content["info"]["root"] == f"s3://{BUCKET}/mine"
    assert len(content["images"]) == 12
    ran, printed = reproduce(experiment)
    assert not ran
    assert "26 files, none has changed" in printed
    client.put_object(Bucket=BUCKET, Key="mine/train/3.png", Body=b"no picture")
    ran, printed = reproduce(experiment)
    assert ran
    assert "changed: train/" in printed
    assert "dropped: train/3.png image" in printed
    assert len(json.loads((experiment.root / "data/prepared/train.json").read_text())["images"]) == 11, printed


def test_server_that_fails_now_and_then_changes_nothing(served: tuple[Experiment, Any, Flaky]) -> None:
    experiment, _, server = served
    printed = experiment.dvc("repro", "prepare")
    prepared = (experiment.root / "data/prepared/train.json").read_bytes()
    server.every = 3
    try:
        ran, _ = reproduce(experiment)
        experiment.dvc("repro", "-f", "prepare")
    finally:
        server.every = 0
    assert server.refused > 5
    assert not ran
    assert (experiment.root / "data/prepared/train.json").read_bytes() == prepared, printed


def test_file_shorter_than_the_refusal_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The S3 client repeats a refused GET only where the refusal is no longer than the file."""
    pauses: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", pauses.append)
    with running_flaky_s3() as (address, server):
        make_bucket(address).put_object(Bucket=BUCKET, Key="mine/a", Body=b"no picture")
        for name, value in variables_of(address).items():
            monkeypatch.setenv(name, value)
        stores.ObjectStore.clear_instance_cache()
        root = Root(f"s3://{BUCKET}/mine")
        server.every = 4  # a HEAD and a GET for each file: every second GET
        assert {root.read("a", named_by="a test") for _ in range(8)} == {b"no picture"}
        server.every = 0
    stores.ObjectStore.clear_instance_cache()
    assert pauses
