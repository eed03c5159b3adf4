"""Laws of the bench of failures: what it reads off the stamps of the steps, and what it calls equal."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.disturbed import Project, compare_curves
from bench.fragile import check_server
from bench.stamped_training import STAMPS


def write_stamps(folder: Path, **by_process: list[tuple[float, int]]) -> Project:
    (folder / STAMPS).mkdir()
    for name, stamps in by_process.items():
        text = "".join(f"{when} {step}\n" for when, step in stamps)
        (folder / STAMPS / name.removeprefix("process")).write_text(text)
    return Project(folder)


def write_checkpoint(folder: Path, *, losses: list[float], seconds: float, weight: float) -> Project:
    checkpoint = folder / "runs/digest/checkpoint_000000002_1"
    checkpoint.mkdir(parents=True)
    (checkpoint.parent / "checkpoint_manager_snapshot.json").write_text("{}")
    row: dict[str, Any] = {"epoch": 1, "step_losses": losses, "seconds": seconds, "images_per_s": 1 / seconds}
    torch.save({"history": [row], "training_state": {"model": {"w": torch.tensor(weight)}}}, checkpoint / "state.pt")
    return Project(folder)


def test_steps_of_two_workers_are_counted_once_and_their_second_try_as_one_more(tmp_path: Path) -> None:
    before = [(10.0, 1), (11.0, 2), (12.0, 3)]
    project = write_stamps(
        tmp_path,
        process1=before,
        process2=[(when + 0.4, step) for when, step in before[:2]],
        process3=[(30.0, 2), (31.0, 3), (32.0, 4)],
        process4=[(30.3, 2), (31.3, 3), (32.3, 4)],
    )
    assert project.steps_trained_again() == 2


def test_training_goes_on_with_the_first_step_of_new_workers(tmp_path: Path) -> None:
    project = write_stamps(tmp_path, process1=[(10.0, 1), (13.0, 2)], process2=[(20.5, 2)], process3=[])
    assert project.newcomers(12.0) == [2]
    assert project.seconds_until_it_went_on(12.0) == 8.5


def test_times_do_not_make_a_curve_differ_and_a_weight_does(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path / "one", losses=[2.0, 1.0], seconds=1.0, weight=0.5)
    slower = write_checkpoint(tmp_path / "two", losses=[2.0, 1.0], seconds=9.0, weight=0.5)
    other = write_checkpoint(tmp_path / "three", losses=[2.0, 1.0], seconds=1.0, weight=0.6)
    assert compare_curves(slower, reference) == "bitwise"
    assert compare_curves(other, reference) == "0.0e+00"


def test_difference_of_curves_is_that_of_the_worst_step(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path / "one", losses=[2.0, 1.0], seconds=1.0, weight=0.5)
    other = write_checkpoint(tmp_path / "two", losses=[2.0, 1.25], seconds=1.0, weight=0.5)
    assert compare_curves(other, reference) == "2.5e-01"


def test_an_epoch_that_mlflow_lacks_stops_the_bench(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("create table runs (status text)")
    connection.execute("create table metrics (key text, step integer)")
    connection.execute("insert into runs values ('FINISHED')")
    connection.executemany("insert into metrics values ('loss', ?)", [(1,), (2,), (4,), (5,)])
    connection.commit()
    connection.close()
    with pytest.raises(RuntimeError, match="MLflow has runs"):
        check_server(tmp_path / "mlflow.db")
