"""What a trial reports to Ray Tune when its training ends, early or after its last epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.fit.config import WorkerConfig
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.runs.identity import BEST, ROWS
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.storage.outs import write_json
from pipeline.sweep import trial
from pipeline.sweep.trial import LastDetections, report_epoch, train_distributed
from pipeline.worker_config import worker_config
from tests.settings import change


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray Tune hears; the search for thresholds is an entry of its own."""
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(trial.ray.tune, "report", lambda figures, checkpoint=None: heard.append(figures))
    monkeypatch.setattr(trial, "write_thresholds", lambda config, folder: heard.append({"thresholds": True}))
    return heard


@pytest.fixture
def config(project: Path) -> WorkerConfig:
    change("params.yaml", train__epochs=4, train__patience=2)
    return worker_config(load_params(), load_runtime(), digest="d1", run=str(project / "runs/d1"))


def histories(aps: list[float]) -> list[list[dict[str, Any]]]:
    """The history after each evaluated epoch."""
    rows = [{"epoch": epoch, "AP": ap} for epoch, ap in enumerate(aps, start=1)]
    return [rows[:count] for count in range(1, len(rows) + 1)]


def facts(reported: list[dict[str, Any]]) -> list[Any]:
    return ["thresholds" if "thresholds" in each else (each["epoch"], each["is_complete"]) for each in reported]


def test_trial_with_tiles_searches_no_thresholds(config: WorkerConfig, tmp_path: Path) -> None:
    change("params.yaml", transforms__tiles={"size": 48, "overlap": 0.2, "min_visible": 0.25})
    trial.write_thresholds(replace(config, params=load_params()), SweepFolder(str(tmp_path / "sweep")))
    assert not (tmp_path / "sweep").exists()


Train = Callable[[WorkerConfig, list[float], Path, pytest.MonkeyPatch], None]


def train_alone(config: WorkerConfig, aps: list[float], folder: Path, patch: pytest.MonkeyPatch) -> None:
    def write(checkpoint: Path) -> None:
        (checkpoint / BEST).write_bytes(b"detector")

    for history in histories(aps):
        metrics = {"history": history, "is_partial": False}
        report_epoch(metrics, write, config, SweepFolder(str(folder)), LastDetections())


def train_as_two(config: WorkerConfig, aps: list[float], folder: Path, patch: pytest.MonkeyPatch) -> None:
    checkpoint = folder / "checkpoint"
    write_json(checkpoint / ROWS, histories(aps)[-1])
    (checkpoint / BEST).write_bytes(b"detector")

    class Kept:
        """In place of the checkpoints of a run."""

        @classmethod
        def of(cls, storage: str, name: str) -> Kept:
            return cls()

        def newest(self, warn: object) -> Path:
            return checkpoint

        def opened(self, found: Path) -> AbstractContextManager[Path]:
            return nullcontext(found)

    def run_trainer(fit: object, config: object, *, on_event: Callable[[dict[str, Any]], None], **options: Any) -> None:
        for history in histories(aps):
            on_event({"kind": "report", "history": history, "is_partial": False})

    patch.setattr(trial, "Checkpoints", Kept)
    patch.setattr(trial, "run_trainer", run_trainer)
    worker = replace(config, runtime=config.runtime.model_copy(update={"workers": 2}))
    base = trial.TrialBase(config.params, worker, str(folder), None)  # type: ignore[arg-type]
    train_distributed(worker, base, SweepFolder(str(folder)))


@pytest.mark.parametrize("train", [train_alone, train_as_two])
@pytest.mark.parametrize(
    ("aps", "expected"),
    [
        ([0.3, 0.2, 0.1], [(1, False), (2, False), "thresholds", (3, True)]),  # early
        ([0.1, 0.2, 0.3, 0.4], [(1, False), (2, False), (3, False), "thresholds", (4, True)]),
    ],
)
def test_trial_searches_its_thresholds_before_it_reports_its_end(
    train: Train,
    aps: list[float],
    expected: list[Any],
    config: WorkerConfig,
    reported: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(config, aps, tmp_path / "sweep", monkeypatch)
    assert facts(reported) == expected
