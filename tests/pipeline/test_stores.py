"""Laws of object stores: what is written is read, whatever its name; what goes wrong is one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.formats.root import Root
from pipeline.runs.identity import RUN_ID, RunFolder
from pipeline.runs.inputs import publish
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.storage.stores import ObjectStore
from pipeline.sweep.records import newest_sweep
from tests.buckets import BUCKET, keys_in, make_bucket, variables_of
from tests.servers import running_s3

URL = f"s3://{BUCKET}"


def test_bucket_and_key_keep_every_character() -> None:
    assert ObjectStore._strip_protocol("s3://mine/a b#1?x*.png") == "mine/a b#1?x*.png"
    assert ObjectStore._strip_protocol(["s3://mine/runs/", "mine/runs"]) == ["mine/runs", "mine/runs"]
    assert ObjectStore._get_kwargs_from_urls("s3://mine/a/b") == {"bucket": "s3://mine"}
    assert fsspec.get_filesystem_class("gs") is ObjectStore


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a store with a bucket, which the standard variables name."""
    with pytest.MonkeyPatch.context() as patch, running_s3(tmp_path_factory.mktemp("s3")) as address:
        make_bucket(address)
        for name, value in variables_of(address).items():
            patch.setenv(name, value)
        ObjectStore.clear_instance_cache()
        yield address
    ObjectStore.clear_instance_cache()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # boto3 asks the clock in a way that Python deprecates
class TestBucket:
    """Against a real server."""

    @pytest.fixture(autouse=True)
    def _served(self, bucket: str) -> None:
        """All of them use it."""

    def test_run_keeps_its_texts(self) -> None:
        folder = RunFolder(f"{URL}/runs", "d1")
        assert folder.read(RUN_ID) is None
        folder.write(RUN_ID, "0123")
        assert folder.read(RUN_ID) == "0123"

    def test_sweep_keeps_its_records(self) -> None:
        folder = SweepFolder(f"{URL}/runs/sweeps/s1")
        assert folder.records() == []
        folder.write_json("sweep.json", {"begun": 1.0})
        folder.write_json("trials/k.json", {"number": 1, "seed": 0})
        assert newest_sweep(f"{URL}/runs").url == folder.url
        assert folder.records() == [{"number": 1, "seed": 0}]

    def test_data_set_is_read_whatever_its_names(self) -> None:
        name = "a b#1?x*.txt"
        fsspec.url_to_fs(URL)[0].pipe_file(f"{BUCKET}/set/{name}", b"picture")
        root = Root(f"{URL}/set")
        assert root.read(name, named_by="a test") == b"picture"
        assert root.has_file(name, named_by="a test") and not root.has_file("other", named_by="a test")
        with fsspec.open(f"{URL}/set/{name}") as file:
            assert file.read() == b"picture"

    def test_process_that_was_forked_reads_too(self) -> None:
        """As the processes of a DataLoader do."""
        fsspec.url_to_fs(URL)[0].pipe_file(f"{BUCKET}/forked", b"read")
        child = os.fork()
        if child == 0:
            with fsspec.open(f"{URL}/forked") as file:
                os._exit(0 if file.read() == b"read" else 1)
        assert os.waitpid(child, 0)[1] == 0

    def test_input_is_put_whole_and_alone(self, bucket: str, tmp_path: Path) -> None:
        path = tmp_path / "train.json"
        path.write_bytes(bytes(6_000_000))
        assert publish(path, f"{URL}/put") == publish(path, f"{URL}/put")
        (key,) = (key for key in keys_in(make_bucket(bucket), "put/") if not key.endswith("/"))  # less its folders
        assert fsspec.url_to_fs(URL)[0].size(f"{BUCKET}/{key}") == 6_000_000

    def test_bucket_that_does_not_exist_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"s3://other/runs/d1 cannot be used \(there is no such bucket\); check"):
            RunFolder("s3://other/runs", "d1").read(RUN_ID)
