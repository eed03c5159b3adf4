"""A Ray that all tests share, and a small project in which they train."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline import prepare
from pipeline.anchor_stats.__main__ import main as anchor_stats
from pipeline.params import load_params
from pipeline.tracking.store import Store, connect
from retinanet.inference.detector import build_network
from retinanet.inference.detector_file import describe_detector, save_detector
from tests.running import Stage, ends_well
from tests.training import Trained, lengthen, train

REPOSITORY = Path(__file__).parents[2]

CLUSTER = """
import sys
from pipeline import cluster  # its variables quiet Ray
import ray
options = {"num_cpus": 4, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
print(ray.init(address="local", _temp_dir=sys.argv[1], **options).address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

# 24 images in batches of 8 are 3 steps an epoch. A high prior lets an untrained network detect something to compare.
TINY: dict[str, dict[str, Any]] = {
    "transforms": {"short_side": 64, "long_side": 64},
    # AdamW's first steps divide by almost nothing: in float32 they raise a rounding to 1e-3 of a loss for some seeds.
    "optim": {"optimizer": "sgd", "lr": 0.15},
    "model": {"fpn_channels": 16, "head_channels": 16, "head_depth": 1, "prior": 0.2},
    "train": {"batch_size": 8, "epochs": 3, "evaluate_every": 1},
    "evaluate": {"pictures": 4, "resamples": 10},
}
SHAPES = {"train": 24, "val": 8, "test": 8, "image_size": 64, "max_objects": 3, "min_size": 16, "max_size": 48}


@pytest.fixture(scope="session")
def stage_variables() -> dict[str, str]:
    """The environment of a stage in a process of its own."""
    return stage_environment()


def stage_environment() -> dict[str, str]:
    """Ours, without what would lead out of the project."""
    outside = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "PIPELINE_CONF")
    kept = {key: value for key, value in os.environ.items() if key not in outside}
    return kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray of 4 CPUs in a process of its own, which ends with the tests."""
    # Without tokens, whatever a Ray started earlier has left in the user's home; and with a short path, because that
    # of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = stage_environment() | {"RAY_AUTH_MODE": "disabled"}
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(timeout=60)
            process.stdout.close()


@pytest.fixture
def shared_ray(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the shared Ray, where the stages and the tests' own trainings find it."""
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return ray_address


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after the stages prepare and anchor_stats; do not write into it."""
    folder = tmp_path_factory.mktemp("prepared")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section] |= values
    params["data"]["shapes"] |= SHAPES
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    runtime = yaml.safe_load((REPOSITORY / "conf/local.yaml").read_text()) | {
        "workers": 1,
        "cpus_per_worker": 1,
        "precision": "fp32",
    }
    (folder / "conf").mkdir()
    (folder / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    with chdir(folder):
        prepare.main([])
        anchor_stats([])
    # MLflow takes 4 s of a core to make its tables: each project gets a copy of them.
    connect(Store(f"sqlite:///{folder / 'mlflow.db'}", "retinanet", None))
    return folder


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared project, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "PIPELINE_CONF", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def untrained(project: Path) -> Path:
    """The prepared project with a detector of random weights from run d1, epoch 3."""
    write_detector(project)
    return project


def write_detector(project: Path) -> None:
    """Write models/model.pt of random weights."""
    sections = load_params(project / "params.yaml").model_dump()
    description = describe_detector(
        **{name: sections[name] for name in ("model", "loss", "transforms")},
        anchors=json.loads((project / "anchors.json").read_text()),
        categories=json.loads((project / "data/prepared/train.json").read_text())["categories"],
        run={"digest": "d1", "epoch": 3},
    )
    torch.manual_seed(0)
    save_detector(project / "models/model.pt", build_network(description).state_dict(), description)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Trained]:
    """Undisturbed trainings of the prepared project by their number of workers; each is done once."""
    return {}


@pytest.fixture
def alone(
    trained: dict[int, Trained], project: Path, shared_ray: str, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """With one worker and a checkpoint at every second step; do not write into its storage."""
    if 1 not in trained:
        trained[1] = train(tmp_path_factory.mktemp("alone"), workers=1, checkpoint_every=2)
    return trained[1]


@pytest.fixture
def pair(
    trained: dict[int, Trained], project: Path, shared_ray: str, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """With two workers; do not write into its storage."""
    if 2 not in trained:
        trained[2] = train(tmp_path_factory.mktemp("pair"), workers=2)
    return trained[2]


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, ray_address: str, stage_variables: dict[str, str], tmp_path_factory: Any) -> Path:
    """A project after a stage train of LONG epochs that nobody disturbed; do not write into it."""
    folder: Path = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(prepared, folder)
    lengthen(folder)
    ends_well(Stage(folder, stage_variables | {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled"}))
    return folder


@pytest.fixture(scope="session")
def tracked(prepared: Path, ray_address: str, stage_variables: dict[str, str], tmp_path_factory: Any) -> Path:
    """A project after the stages train and evaluate, with an MLflow store of its own; add to the store at most."""
    folder: Path = tmp_path_factory.mktemp("tracked") / "project"
    shutil.copytree(prepared, folder)
    variables = stage_variables | {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled"}
    variables |= {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5"}
    for stage in ("train", "evaluate"):
        command = [sys.executable, "-m", f"pipeline.{stage}"]
        subprocess.run(command, cwd=folder, env=variables, check=True, timeout=500)
    return folder
