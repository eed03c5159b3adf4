"""Laws of clean where the storage is a bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.clean.run import run
from pipeline.cluster.archive import export_archive
from pipeline.runs.identity import BEST, ROWS, RunFolder
from pipeline.storage.stores import ObjectStore
from tests.buckets import BUCKET, keys_in, make_bucket, variables_of
from tests.servers import running_s3
from tests.stored_runs import RUNS, add_run, commit_report

STORAGE = f"s3://{BUCKET}/runs"
UNKNOWN = f"{'0' * 64}.json"


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Of a store with a bucket, which the standard variables name."""
    with running_s3(tmp_path_factory.mktemp("s3")) as address:
        client = make_bucket(address)
        for name, value in variables_of(address).items():
            monkeypatch.setenv(name, value)
        ObjectStore.clear_instance_cache()
        yield client
    ObjectStore.clear_instance_cache()


def fill(client: Any, here: Path) -> None:
    """A needed run, one that nobody needs, one in training; a sweep that has ended, an old input, somebody's text."""
    for name in RUNS[1:4]:
        add_run(here / "local", name)
    for path in (here / "local").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"runs/{path.relative_to(here / 'local')}")
    commit_report(RUNS[1])
    sweep = RunFolder(STORAGE, f"sweeps/{RUNS[4]}")
    sweep.write("sweep.json", json.dumps({"trials": 1}))
    sweep.write("trials/0.json", json.dumps({"number": 0, "seed": 1, "state": "finished"}))
    for folder, name in (("leases", f"{RUNS[3]}.json"), ("inputs", UNKNOWN), ("notes", "mine.txt")):
        RunFolder(STORAGE, folder).write(name, "{}")


def files_in(client: Any) -> list[str]:
    """Of the storage, without the empty objects that stand for folders."""
    return [key for key in keys_in(client, "runs/") if not key.endswith("/")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # boto3 asks the clock in a way that Python deprecates
def test_bucket_is_listed_and_cleaned_as_a_folder_is(
    client: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(client, here)
    before = files_in(client)
    run(STORAGE, delete=False, unfinished=False)
    assert files_in(client) == before
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()[1:-2]}
    assert set(rows) == {*RUNS[1:4], f"sweeps/{RUNS[4]}", f"inputs/{UNKNOWN}", "notes"}
    assert all(" 0 d " in row for row in rows.values())
    assert rows[RUNS[1]].endswith("branch main") and " drop resume state " in rows[RUNS[1]]
    assert rows[RUNS[2]].endswith("nobody") and rows[RUNS[3]].endswith("in training")

    # While a run trains, an input may be its own.
    run(STORAGE, delete=True, unfinished=False)
    kept = [f"runs/{RUNS[1]}/{name}" for name in ("ended", f"finished/{BEST}", f"finished/{ROWS}")]
    training = [key for key in before if RUNS[3] in key]
    others = [f"runs/inputs/{UNKNOWN}", "runs/notes/mine.txt"]
    left = files_in(client)
    assert left == sorted([*kept, f"runs/{RUNS[1]}/finished/sha256.json", *training, *others])
    found = export_archive(RunFolder(STORAGE, RUNS[1]), lambda folder: (folder / BEST).stat().st_size)
    assert found

    client.delete_object(Bucket=BUCKET, Key=f"runs/leases/{RUNS[3]}.json")
    run(STORAGE, delete=True, unfinished=False)
    left = files_in(client)
    assert left == sorted([*kept, f"runs/{RUNS[1]}/finished/sha256.json", "runs/notes/mine.txt"])
