"""Laws of a parent run and its children: several at once in one process, each found again by a tag."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import Run, find_run, open_run
from pipeline.tracking.store import find_store

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def bear(parent: Run, name: str, *, run_id: str | None = None, **params: object) -> Run:
    assert parent.run_id is not None
    tags = {"mlflow.parentRunId": parent.run_id, "trial": f"{parent.run_id} {name}"}
    return open_run(run_id=run_id, name=name, params=params, tags=tags)


def children_of(tracker: Any, parent: Run) -> dict[str, Any]:
    """Name -> child, as the UI asks for them."""
    client = tracker.client()
    experiment = client.get_run(parent.run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    return {run.info.run_name: run for run in found}


def test_children_written_in_turns_keep_their_own_params_and_curves(tracker: Any, tmp_path: Path) -> None:
    parent = tracker.begin()
    children = [bear(parent, f"trial {number}", gamma=number) for number in range(3)]
    for epoch in range(1, 4):
        for number, child in enumerate(children):
            child.log_history([{"epoch": past, "step": past, "AP": number + past / 10} for past in range(1, epoch + 1)])
        parent.log_metrics({"best.AP": epoch / 10}, step=epoch)
    children[1].log_picture("detections", tracker.png(tmp_path / "sheet.png"), step=3)
    children[0].finish("KILLED")  # stopped early; the others go on
    children[1].finish()

    stored = children_of(tracker, parent)
    assert set(stored) == {"trial 0", "trial 1", "trial 2"}
    for number, child in enumerate(children):
        assert stored[f"trial {number}"].data.params == {"gamma": str(number)}
        assert tracker.curve(child, "AP") == [(epoch, number + epoch / 10) for epoch in range(1, 4)]
    assert [stored[f"trial {number}"].info.status for number in range(3)] == ["KILLED", "FINISHED", "RUNNING"]
    assert tracker.curve(parent, "best.AP") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert tracker.curve(parent, "AP") == []


def test_children_may_be_written_from_several_threads(tracker: Any) -> None:
    parent = tracker.begin()

    def work(number: int) -> None:
        child = bear(parent, f"thread {number}")
        for epochs in range(1, 5):
            child.log_history(tracker.history(epochs))
        child.finish()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = children_of(tracker, parent)
    assert [run.info.status for run in stored.values()] == ["FINISHED"] * 3
    points = [tracker.client().get_metric_history(run.info.run_id, "step") for run in stored.values()]
    assert [[point.step for point in curve] for curve in points] == [[0, 1, 2, 3]] * 3


@pytest.mark.slow
def test_child_of_a_killed_process_is_found_by_its_tag_and_goes_on(tracker: Any, tmp_path: Path) -> None:
    parent = tracker.begin()
    code = f"""
        import os, signal
        from pipeline.tracking import open_run
        tags = {{"mlflow.parentRunId": "{parent.run_id}", "trial": "{parent.run_id} trial 0"}}
        run = open_run(run_id=None, name="trial 0", params={{"gamma": 2}}, tags=tags)
        run.log_history([{{"epoch": epoch, "step": epoch, "AP": 0.1}} for epoch in (1, 2)])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == -9

    run_id = find_run("trial", f"{parent.run_id} trial 0")
    assert run_id is not None
    child = bear(parent, "trial 0", run_id=run_id, gamma=2)
    child.log_history([{"epoch": epoch, "step": epoch, "AP": 0.1} for epoch in (1, 2, 3)])
    child.finish()
    (stored,) = children_of(tracker, parent).values()
    assert (stored.info.run_id, stored.info.status) == (run_id, "FINISHED")
    assert tracker.curve(child, "AP") == [(1, 0.1), (2, 0.1), (3, 0.1)]


def test_run_is_born_with_its_tags() -> None:
    """Else a kill between birth and tags leaves a child that nobody finds."""
    run = Run(find_store(), run_id=None, name="child", tags={"trial": "7", "mlflow.parentRunId": "p"})
    run.open()
    assert find_run("trial", "7") == run.run_id


def test_newest_run_with_the_tag_is_found(tracker: Any) -> None:
    for text in ("a", "b's"):
        older, newer = (open_run(run_id=None, name="n", params={}, tags={"sweep": text}) for _ in range(2))
        assert find_run("sweep", text) in (older.run_id, newer.run_id)  # both may be born in one millisecond
        tracker.client().delete_run(newer.run_id)
        assert find_run("sweep", text) == older.run_id  # a deleted run is none


def test_tag_that_no_run_has_finds_none(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_run("sweep", "never") is None
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "not yet there")
    assert find_run("sweep", "never") is None


def test_store_that_is_away_finds_none_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    assert find_run("sweep", "a") is None
    told = capsys.readouterr().err
    assert "for a run with sweep = a" in told
    assert "secret" not in told
