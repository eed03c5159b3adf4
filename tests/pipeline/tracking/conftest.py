"""A project with a store of its own, and the few words with which the tests ask it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from pipeline.tracking import Run, open_run
from pipeline.tracking.store import connect, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


class Tracker:
    """Begins runs, and asks the store what it holds of them."""

    def begin(self, run_id: str | None = None, params: dict[str, object] | None = None) -> Run:
        return open_run(run_id=run_id, name="trial", params=params or {}, tags={"kind": "test"})

    def id_of(self, run: Run) -> str:
        assert run.run_id is not None
        return run.run_id

    def client(self) -> MlflowClient:
        return connect(find_store())

    def history(self, epochs: int) -> list[dict[str, float | int | None]]:
        """Rows 0..epochs-1, 10 steps each, AP only in every second."""
        return [
            {
                "epoch": epoch,
                "step": 10 * (epoch + 1),
                "loss": 1 / (epoch + 1),
                "AP": 0.25 * epoch if epoch % 2 else None,
            }
            for epoch in range(epochs)
        ]

    def curve(self, run: Run, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client().get_metric_history(self.id_of(run), key)]

    def png(self, path: Path, *, width: int = 8, height: int = 6) -> Path:
        Image.new("RGB", (width, height), (200, 30, 30)).save(path)
        return path

    def run_python(self, code: str, *, cwd: Path, python_path: str) -> str:
        environment = {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose store has been migrated once for all tests: that takes seconds."""
    return tmp_path_factory.mktemp("a project")


@pytest.fixture(autouse=True)
def at_project(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(home))
    monkeypatch.chdir(tmp_path)  # nothing may depend on it or lie in it
