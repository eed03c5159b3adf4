"""SIGTERM to `dvc repro`, which DVC does not hand on: the training stops by itself, with its checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from filelock import FileLock

from tests.running import Stage, ends_well

pytestmark = pytest.mark.slow

EPOCHS = 8
STAGE = {
    "cmd": "python -m pipeline.train",
    "params": ["train"],
    "deps": ["data/prepared/train.json", "anchors.json"],
    "outs": ["models/model.pt"],
}


class Repro(Stage):
    """`dvc repro` in a project, with its lines as they come."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dvc", "repro"]


@pytest.fixture
def environment(stage_variables: dict[str, str], ray_address: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{stage_variables['PATH']}"  # `python` of the stage
    ray = {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled"}
    return stage_variables | ray | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


@pytest.fixture
def repository(project: Path, environment: dict[str, str]) -> Path:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["train"]["epochs"] = EPOCHS
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": STAGE}}))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=project, env=environment, check=True)
    return project


def test_training_stops_with_its_dvc_and_the_next_repro_goes_on(repository: Path, environment: dict[str, str]) -> None:
    first = Repro(repository, environment)
    try:
        first.wait_for(f"epoch 2/{EPOCHS}")
        (holder,) = repository.glob("runs/locks/*.pid")
        training = psutil.Process(int(holder.read_text()))
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(timeout=20) == -signal.SIGTERM
        training.wait(timeout=60)
        first.wait()
    finally:
        first.end()
    assert first.lines[-1] == "train: stopped with a checkpoint; run again to resume"
    FileLock(holder.with_suffix(".lock")).acquire(timeout=0).lock.release()
    reached = torch.load(max(repository.glob("runs/*/checkpoint_*/state.pt")), weights_only=True)["progress"]
    lines = ends_well(Repro(repository, environment))
    assert any(line.startswith(f"resuming from epoch {reached['epoch']}") for line in lines)
    assert (repository / "models/model.pt").exists()
