"""Whole sweeps on a real Ray: ended, killed, interrupted, resumed; trials that die, and trials of two workers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.sweep.__main__ import main
from tests.end_command import telling, told_in
from tests.running import Stage, ends_well

pytestmark = pytest.mark.slow

SPACE = {"loss.gamma": {"uniform": [0.0, 3.0]}, "loss.alpha": {"uniform": [0.2, 0.8]}}
SWEEP = {"space": SPACE, "constraints": [], "points": [{}], "search": "random", "scheduler": "none", "trials": 4}
SWEEP |= {"fixed": {"train.epochs": 3, "train.evaluate_every": 1}, "min_covered": 0.0, "seeds": 1, "reduction": 2}
SWEEP |= {"postprocess": {"nms_iou": [0.4, 0.6], "score_threshold": [0.05, 0.2]}}


@pytest.fixture
def sweep_project(project: Path) -> Path:
    """A prepared project whose sweep has four short trials."""
    runtime = yaml.safe_load((project / "conf/local.yaml").read_text())
    runtime |= {"workers": 1, "trials_at_once": 2, "on_end": telling(project / "told", "{status}", "{AP}")}
    (project / "conf/sweep.yaml").write_text(yaml.safe_dump(runtime))
    write_sweep(project)
    return project


def write_sweep(project: Path, **changes: Any) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["sweep"] = {**SWEEP, **changes}
    (project / "params.yaml").write_text(yaml.safe_dump(params))


PARENT = "select status from runs join tags using (run_uuid) where tags.key = 'kind' and tags.value = 'sweep'"

Begin = Callable[..., Stage]


@pytest.fixture
def begin(sweep_project: Path) -> Iterator[Begin]:
    """Starts a command in the project; whatever the test leaves running is ended."""
    begun: list[Stage] = []

    def start(variables: dict[str, str], *arguments: str) -> Stage:
        begun.append(Stage(sweep_project, variables, *arguments))
        return begun[-1]

    yield start
    for running in begun:
        running.end()


@pytest.fixture
def variables(stage_variables: dict[str, str], ray_address: str) -> dict[str, str]:
    """The environment of a sweep on the shared Ray."""
    return stage_variables | {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled"}


def records_of(project: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in project.glob("runs/sweeps/*/trials/*.json")]
    return {record["key"]: record for record in records}


def finished_of(project: Path) -> dict[str, dict[str, Any]]:
    return {key: record for key, record in records_of(project).items() if record["state"] == "finished"}


def query(project: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask MLflow's database."""
    connection = sqlite3.connect(project / "mlflow.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def assert_children_are_whole(project: Path, *, trials: int, epochs: int) -> None:
    """One parent; under it one finished run for each trial, whose curve has each epoch once."""
    children = query(
        project,
        "select r.run_uuid, r.status from runs r join tags t using (run_uuid) where t.key = 'mlflow.parentRunId'",
    )
    assert [status for _, status in children] == ["FINISHED"] * trials
    assert len(query(project, "select run_uuid from runs")) == trials + 1
    for run_id, _ in children:
        steps = query(project, f"select step from metrics where key = 'AP' and run_uuid = '{run_id}' order by step")
        assert steps == [(epoch,) for epoch in range(1, epochs + 1)]


def test_a_sweep_survives_a_dead_trial_an_interruption_and_a_kill_and_its_winner_can_be_trained_again(
    sweep_project: Path, variables: dict[str, str], begin: Begin
) -> None:
    # A trial dies, then the sweep is interrupted.
    running = begin(variables, "sweep")
    running.wait_for("trial 0 seed 1 epoch 1/3")
    os.kill(
        next(record["pid"] for record in records_of(sweep_project).values() if record["number"] == 0), signal.SIGKILL
    )
    running.wait_for("trial 1 seed 1 finished")
    running.process.send_signal(signal.SIGTERM)  # goes the way of Ctrl-C
    lines = ends_well(running)
    assert any("failed and is retried" in line for line in lines)
    assert any("resume` resumes" in line for line in lines)
    assert (sweep_project / "reports/sweep.csv").exists()
    assert query(sweep_project, PARENT) == [("KILLED",)]
    assert set(query(sweep_project, "select status from runs")) == {("FINISHED",), ("KILLED",)}

    # It goes on, and is killed.
    running = begin(variables, "sweep", "resume")
    running.wait_for("trial 0 seed 1 finished")
    running.process.send_signal(signal.SIGKILL)
    running.end()
    before = finished_of(sweep_project)
    assert {0, 1} <= {record["number"] for record in before.values()} != {0, 1, 2, 3}

    # It goes on to its end and trains no finished trial again.
    lines = ends_well(begin(variables, "sweep", "resume"))
    for record in before.values():
        assert not any(line.startswith(f"trial {record['number']} seed 1") for line in lines)
    after = records_of(sweep_project)
    assert finished_of(sweep_project) == after and len(after) == 4
    assert all(after[key] == record for key, record in before.items())
    assert query(sweep_project, PARENT) == [("FINISHED",)]
    assert_children_are_whole(sweep_project, trials=4, epochs=3)
    for key in after:
        rows = json.loads(next(sweep_project.glob(f"runs/sweeps/*/trials/{key}/thresholds.json")).read_text())
        assert len(rows) == 4
    description = "select value from tags where key = 'mlflow.note.content' and value like '%artifacts/sweep.html)%'"
    assert (
        len(query(sweep_project, description)) == 1 and len(list(sweep_project.glob("mlartifacts/**/sweep.html"))) == 1
    )
    assert "4 settings with an AP are too few" in (sweep_project / "reports/sweep.html").read_text()
    for name in ("slices", "parallel", "map"):
        assert (sweep_project / f"plots/sweep_{name}.png").exists()

    # The same command once more has nothing to do.
    again = ends_well(begin(variables, "sweep"))
    assert not any(" starts: " in line or " epoch " in line for line in again)
    assert records_of(sweep_project) == after

    winner = max(after.values(), key=lambda record: record["score"])
    command = next(line for line in again if line.strip().startswith("PIPELINE_CONF="))
    assert all(f"-S {key}={value}" in command for key, value in winner["settings"].items())
    apply(sweep_project, {**SWEEP["fixed"], **winner["settings"]})  # type: ignore[dict-item]
    ends_well(begin(variables | {"PIPELINE_CONF": "conf/sweep.yaml"}, "train"))
    trained = json.loads((sweep_project / "reports/train.json").read_text())
    assert trained["best"]["AP"] == winner["score"]
    # Interrupted, to its end, nothing to do, and the winner's own training; the killed one told nothing.
    told = [each["arguments"] for each in told_in(sweep_project / "told")]
    assert [status for status, _ in told] == ["stopped", "finished", "finished", "finished"]
    assert [ap for _, ap in told[1:]] == [f"{winner['score']:.4f}"] * 3


def apply(project: Path, settings: dict[str, Any]) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    for name, value in settings.items():
        section, key = name.split(".")
        params[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_there_is_nothing_to_resume_where_no_sweep_began(sweep_project: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no sweep [0-9a-f]{16}-[0-9a-f]{8} of this params"):
        main(["resume"])


def test_trials_of_two_workers_are_stopped_without_leaving_anything_behind(
    sweep_project: Path, stage_variables: dict[str, str], begin: Begin
) -> None:
    """On a small Ray of its own: a trial that held a CPU for itself, or left its workers behind, would wait forever."""
    runtime = yaml.safe_load((sweep_project / "conf/sweep.yaml").read_text())
    runtime |= {"workers": 2, "trials_at_once": None}
    (sweep_project / "conf/sweep.yaml").write_text(yaml.safe_dump(runtime))
    # No score of an untrained network with so low a prior reaches 0.05: its AP is 0, and ASHA stops it after an epoch.
    points = [{"loss.gamma": 1.0}, {"loss.gamma": 1.0, "model.prior": 1e-4}, {"loss.gamma": 1.5}]
    space = {**SPACE, "model.prior": {"loguniform": [1e-4, 0.2]}}
    fixed = {"train.epochs": 2, "train.evaluate_every": 1}
    write_sweep(sweep_project, scheduler="asha", trials=3, space=space, points=points, fixed=fixed)
    ends_well(begin(stage_variables, "sweep"))
    states = {record["number"]: record["state"] for record in records_of(sweep_project).values()}
    assert (states[0], states[1]) == ("finished", "stopped")
    assert states[2] in ("finished", "stopped")
