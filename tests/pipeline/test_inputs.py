"""Laws of what workers read on other nodes: put there once and whole, fetched once, and one sentence where it fails."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipeline.fit.config import InputFiles, WorkerConfig, publish_inputs, with_weights
from pipeline.fit.loop import load_splits
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.runs import inputs
from pipeline.runs.identity import digest_file
from pipeline.runs.inputs import check_pictures, fetch, publish

URL = "memory://storage"  # of fsspec, in this process


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and an empty store."""
    monkeypatch.setattr(inputs, "CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return tmp_path / "cache/inputs"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    path.write_text('{"images": []}')
    return path


def test_file_lies_in_the_storage_under_its_digest(prepared: Path, tmp_path: Path) -> None:
    for storage in (URL, str(tmp_path / "runs")):
        location = publish(prepared, storage)
        assert location == f"{storage}/inputs/{digest_file(prepared)}.json"
        assert fetch(location).read_bytes() == prepared.read_bytes()
    assert os.listdir(tmp_path / "runs/inputs") == [f"{digest_file(prepared)}.json"]  # nothing half written beside it


def test_file_that_is_there_is_not_put_again(prepared: Path, tmp_path: Path) -> None:
    kept = Path(publish(prepared, str(tmp_path / "runs")))
    before = kept.stat()
    publish(prepared, str(tmp_path / "runs"))
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_file_that_is_there_in_part_is_put_again(prepared: Path, tmp_path: Path) -> None:
    kept = Path(publish(prepared, str(tmp_path / "runs")))
    kept.write_text("{")
    publish(prepared, str(tmp_path / "runs"))
    assert kept.read_bytes() == prepared.read_bytes()


def test_node_fetches_a_url_once(prepared: Path, cache: Path) -> None:
    location = publish(prepared, URL)
    first = fetch(location)
    fsspec.filesystem("memory").store.clear()
    assert fetch(location) == first
    assert first.parent == cache


def test_what_is_not_what_was_put_there_is_refused_and_not_kept(prepared: Path, cache: Path) -> None:
    location = publish(prepared, URL)
    with fsspec.open(location, "wb") as file:
        file.write(b"something else")
    with pytest.raises(ValueError, match="does not match its digest"):
        fetch(location)
    assert not (cache / f"{digest_file(prepared)}.json").exists()


def test_file_that_a_node_does_not_see_is_one_sentence_with_the_node(tmp_path: Path) -> None:
    node = socket.gethostname()
    with pytest.raises(
        ValueError, match=rf"train\.json does not exist on node {node}; set storage in conf/ to a folder"
    ):
        fetch(str(tmp_path / "runs/inputs/train.json"))
    with pytest.raises(ValueError, match=rf"node {node}: memory://storage/inputs/a\.json cannot be used"):
        fetch(f"{URL}/inputs/a.json")


def test_pictures_that_a_node_does_not_see_are_one_sentence_with_the_node(prepared: Path, tmp_path: Path) -> None:
    data = InputFiles(str(prepared), str(prepared), root=str(tmp_path / "nowhere"))
    node = socket.gethostname()
    with pytest.raises(ValueError, match=rf"folder .*nowhere does not exist on node {node}; set data_root in conf/"):
        load_splits(data)
    check_pictures("s3://bucket/pictures")
    check_pictures(str(tmp_path))


def config_of(prepared: Path, weights: str | None) -> WorkerConfig:
    root = Path(__file__).parents[2]
    params, runtime = load_params(root / "params.yaml"), load_runtime(root / "conf/local.yaml")
    data = InputFiles(str(prepared), str(prepared), root="s3://bucket/pictures")
    return WorkerConfig(with_weights(params, weights), runtime, description={}, data=data)


def test_workers_elsewhere_get_places_and_no_content(prepared: Path, tmp_path: Path) -> None:
    weights = tmp_path / "r18.pt"
    weights.write_bytes(b"weights")
    config = config_of(prepared, str(weights))
    there = publish_inputs(config, URL)
    assert there.data == replace(config.data, train=publish(prepared, URL), val=publish(prepared, URL))
    assert there.params == with_weights(config.params, f"{URL}/inputs/{digest_file(weights)}.pt")
    assert config.params.model.weights == str(weights)


def test_no_weights_stay_none(prepared: Path) -> None:
    config = config_of(prepared, None)
    assert publish_inputs(config, URL).params == config.params
