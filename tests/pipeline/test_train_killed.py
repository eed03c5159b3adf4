"""Laws of the stage train as a process: killed and run again, run twice at once, finished and run again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.end_command import telling, told_in
from tests.running import Stage, ends_well
from tests.settings import change
from tests.training import LONG, TIMES, lengthen

pytestmark = pytest.mark.slow

OUTS = ("models/model.pt", "reports/train.json", "plots/training.csv", "plots/training.png")


def state_of(project: Path) -> dict[str, Any]:
    newest = max(project.glob("runs/*/checkpoint_*/state.pt"))
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    return state


def curve_of(project: Path) -> list[dict[str, Any]]:
    """The rows of the history with the losses of their steps, without times."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in state_of(project)["history"]]


def rows_of_csv(project: Path) -> list[dict[str, str]]:
    with (project / "plots/training.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def query(project: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask MLflow's database."""
    connection = sqlite3.connect(project / "mlflow.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def assert_one_run_with_one_curve(project: Path, *, epochs: int) -> None:
    assert query(project, "select status from runs") == [("FINISHED",)]
    steps = query(project, "select step from metrics where key = 'loss' order by step")
    assert steps == [(epoch,) for epoch in range(1, epochs + 1)]


@pytest.fixture(scope="module")
def environment(stage_variables: dict[str, str], ray_address: str) -> dict[str, str]:
    return stage_variables | {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled"}


def test_killed_training_is_taken_over_by_the_process_that_waits(
    undisturbed: Path, project: Path, environment: dict[str, str]
) -> None:
    lengthen(project)
    first, second = Stage(project, environment), None
    try:
        first.wait_for("run ")
        second = Stage(project, environment)
        waiting = second.wait_for("run ")
        assert waiting.endswith(f"is being trained by process {first.process.pid}; waiting for it to end")
        first.wait_for(f"epoch 1/{LONG}")
        os.kill(first.process.pid, signal.SIGKILL)
        resumed = second.wait_for("resuming from epoch ")
        assert resumed.removeprefix("resuming from epoch ") in [str(epoch) for epoch in range(1, LONG)]
        ends_well(second)
    finally:
        first.end()
        if second is not None:
            second.end()
    assert curve_of(project) == curve_of(undisturbed)
    assert rows_of_csv(project) == rows_of_csv(undisturbed)
    assert (project / "reports/train.json").read_bytes() == (undisturbed / "reports/train.json").read_bytes()
    ours, theirs = (torch.load(folder / "models/model.pt", weights_only=True) for folder in (project, undisturbed))
    assert ours["description"] == theirs["description"]
    assert ours["weights"].keys() == theirs["weights"].keys()
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name
    assert_one_run_with_one_curve(project, epochs=LONG)


def test_told_to_stop_it_keeps_a_checkpoint_and_goes_on_from_that_step(
    undisturbed: Path, project: Path, environment: dict[str, str]
) -> None:
    lengthen(project)
    change("conf/local.yaml", on_end=telling(project / "told", "{status}", "{message}"))
    expected = f"epoch 1/{LONG}"
    for number, epoch in ((signal.SIGTERM, 2), (signal.SIGINT, 5)):
        stopped = Stage(project, environment)
        try:
            stopped.wait_for(expected)
            stopped.wait_for(f"epoch {epoch}/{LONG}")
            stopped.process.send_signal(number)
            assert stopped.wait() == 1
        finally:
            stopped.end()
        assert stopped.lines[-1] == "train: stopped with a checkpoint; run again to resume"
        assert not [line for line in stopped.lines if "Traceback" in line]
        assert not (project / "models/model.pt").exists()
        assert query(project, "select status from runs") == [("KILLED",)]
        reached = state_of(project)["progress"]
        expected = f"resuming from epoch {reached['epoch']}"
        expected += f", step {len(reached['losses'])} of the next" if reached["losses"] else ""
        assert told_in(project / "told")[-1]["arguments"] == ["stopped", stopped.lines[-1].removeprefix("train: ")]
    assert expected in ends_well(Stage(project, environment))
    told = told_in(project / "told")
    assert [each["arguments"][0] for each in told] == ["stopped", "stopped", "finished"]
    best = json.loads((project / "reports/train.json").read_text())["best"]
    assert told[-1]["variables"]["RETINANET_AP"] == f"{best['AP']:.4f}"
    assert curve_of(project) == curve_of(undisturbed)
    assert (project / "reports/train.json").read_bytes() == (undisturbed / "reports/train.json").read_bytes()
    assert_one_run_with_one_curve(project, epochs=LONG)


def test_finished_training_gives_its_outs_again_and_is_put_aside_where_it_shall_begin_anew(
    undisturbed: Path, project: Path, environment: dict[str, str]
) -> None:
    for name in ("params.yaml", "mlflow.db", "runs"):
        copy = shutil.copytree if (undisturbed / name).is_dir() else shutil.copy
        copy(undisturbed / name, project / name)
    lines = ends_well(Stage(project, environment))
    assert f"resuming from epoch {LONG}" in lines
    assert not [line for line in lines if line.startswith("epoch ")]
    compared = [name for name in OUTS if not name.endswith("png")]
    assert all((project / name).read_bytes() == (undisturbed / name).read_bytes() for name in compared)
    assert (project / "plots/training.png").exists()
    assert_one_run_with_one_curve(project, epochs=LONG)

    before = {path.parent.name: path.read_bytes() for path in project.glob("runs/*/checkpoint_*/state.pt")}
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text()) | {"resume": "never"}
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))
    lines = ends_well(Stage(project, environment))
    (aside,) = (line.rpartition(" ")[2] for line in lines if line.startswith("resume: never in conf/"))
    assert {path.parent.name: path.read_bytes() for path in Path(aside).glob("checkpoint_*/state.pt")} == before
    assert not any(line.startswith("resuming") for line in lines)
    assert any(line.startswith("epoch 1/") for line in lines)
    assert len(query(project, "select run_uuid from runs")) == 2


def test_request_that_the_cluster_cannot_meet_is_one_sentence(project: Path, environment: dict[str, str]) -> None:
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text()) | {"workers": 5, "start_timeout_s": 1}
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))
    running = Stage(project, environment)
    try:
        assert running.wait() == 1
    finally:
        running.end()
    asked = "train: 5 workers with 1 CPU each need 5, but the cluster has 4; lower workers in conf/ or add nodes"
    assert running.lines[-1] == asked
    assert not [line for line in running.lines if "Traceback" in line]
