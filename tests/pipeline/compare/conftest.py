"""A project as the stages leave it, with made-up detections."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.reports.results import write_results
from pipeline.storage.outs import write_json
from retinanet.evaluation.bootstrap import average_precision, summarise
from retinanet.evaluation.class_matches import match_results
from tests.judged_world import CLASSES, Row, random_truth

REPOSITORY = Path(__file__).parents[3]
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "PIPELINE_CONF", "DVC_EXP_NAME")

Leave = Callable[..., None]


@pytest.fixture
def truth() -> dict[str, Any]:
    return random_truth(21)


@pytest.fixture
def workspace(truth: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared splits, the pictures of test and conf/, as the current folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_json(Path("data/prepared/test.json"), truth)
    write_json(Path("data/prepared/train.json"), random_truth(22))
    Path("data/raw").mkdir()
    for image in truth["images"]:
        Image.new("RGB", (image["width"], image["height"]), (90, 90, 90)).save(f"data/raw/{image['file_name']}")
    Path("conf").mkdir()
    Path("conf/local.yaml").write_text((REPOSITORY / "conf/local.yaml").read_text())
    return folder


@pytest.fixture
def leave(workspace: Path, truth: dict[str, Any]) -> Leave:
    """Writes what train and evaluate leave in the workspace."""

    def write(results: list[Row], *, gamma: float = 2.0, ap: float | None = None) -> None:
        params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        params["loss"]["gamma"] = gamma
        Path("params.yaml").write_text(yaml.safe_dump(params))
        write_results(Path("reports/detections.json.gz"), results)
        write_json(Path("reports/evaluate.json"), {"AP": ap_of(truth, results) if ap is None else ap})
        write_json(Path("reports/train.json"), {"run": f"digest{gamma}"})

    return write


def ap_of(truth: dict[str, Any], results: list[Row]) -> float:
    once = np.ones((1, len(truth["images"])), dtype=np.int64)
    return float(summarise(average_precision(match_results(truth, results), once), CLASSES)["AP"][0])


def run(*command: str) -> str:
    """What a command prints; it must succeed."""
    if command[0] == "dvc":
        command = (sys.executable, "-m", *command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The workspace under git and DVC; the word with which a test speaks to them."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    run("git", "init", "-q", "-b", "main")
    return run


def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("reports/compare.json").read_text())
    return content


@pytest.fixture(name="report")
def report_reader() -> Callable[[], dict[str, Any]]:
    """The function that reads what the command has written."""
    return report
