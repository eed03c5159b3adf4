"""Laws of where runs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.store import Store, find_store, without_password

PROJECT = Path(__file__).resolve().parents[3]

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_store_is_in_the_real_root_inside_a_dvc_experiment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("DVC_ROOT", str(home / ".dvc/tmp/exps/standalone/tmpabc"))
    assert find_store().uri == f"sqlite:///{home}/mlflow.db"
    assert find_store().artifacts == (home / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/other.db")
    assert find_store().uri == f"sqlite:///{home}/runs/other.db"


def test_server_of_the_environment_decides_where_artifacts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:5000/mlflow")
    store = find_store()
    assert store.artifacts is None
    assert store.public_uri == "https://host:5000/mlflow"


def test_import_of_tracking_writes_nothing_and_leaves_mlflow_alone(tracker: Any, tmp_path: Path) -> None:
    code = "import sys, pipeline.tracking; print('mlflow' in sys.modules)"
    assert tracker.run_python(code, cwd=tmp_path, python_path=str(PROJECT)).strip() == "False"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_run_writes_into_the_root_and_nowhere_else(tracker: Any, home: Path, tmp_path: Path) -> None:
    run = tracker.begin()
    run.log_artifact(tracker.png(home / "sheet.png"), "plots")
    run.log_metrics({"AP": 0.5})
    run.finish()
    assert list(tmp_path.iterdir()) == []
    assert (home / "mlflow.db").exists()
    assert list((home / "mlartifacts").rglob("sheet.png"))
    assert run.url == "make ui"


def test_name_of_the_experiment_comes_from_the_environment(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_store().experiment == "retinanet"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    run = tracker.begin()
    experiment_id = tracker.client().get_run(tracker.id_of(run)).info.experiment_id
    assert tracker.client().get_experiment(experiment_id).name == "cells"


def test_deleted_experiment_is_told_before_any_work(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    tracker.client().delete_experiment(tracker.client().create_experiment("gone"))
    with pytest.raises(ValueError, match=r"experiment gone .* is deleted; restore it"):
        tracker.begin()


def test_store_that_mlflow_no_longer_supports_is_told_before_any_work(
    tracker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        tracker.begin()


def test_address_of_the_store_says_what_a_browser_can_open() -> None:
    assert Store("http://h", "e", None).is_server
    assert not Store("sqlite:////a/mlflow.db", "e", None).is_server


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/mlflow", "http://host:5000/mlflow"),
        ("no answer of https://me:se/cret@host/a at all", "no answer of https://host/a at all"),
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("http://host:5000/users/a@b", "http://host:5000/users/a@b"),
        ("http://host/a and me@home", "http://host/a and me@home"),
        ("sqlite:////a/me:b@c.db", "sqlite:////a/me:b@c.db"),
    ],
)
def test_password_is_cut_from_an_address_and_nothing_else_is(text: str, shown: str) -> None:
    assert without_password(text) == shown
