"""A tiny project whose training is disturbed, and what the stamps of its steps say afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from bench.stamped_training import STAMPS
from tests.running import kill_tree

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0
EPOCHS = 5
# 96 images in batches of 8 are 12 steps an epoch.
TINY: dict[str, dict[str, Any]] = {
    # Mild steps: others raise what rounding differs between numbers of workers a thousandfold in 60 steps.
    "optim": {"optimizer": "sgd", "lr": 0.01, "momentum": 0.0},
    "transforms": {"short_side": 64, "long_side": 64},
    "model": {"fpn_channels": 16, "head_channels": 16, "head_depth": 1, "prior": 0.2},
    "train": {"batch_size": 8, "epochs": EPOCHS, "evaluate_every": EPOCHS},
}
SHAPES = {"train": 96, "val": 8, "test": 8, "image_size": 64, "max_objects": 3, "min_size": 16, "max_size": 48}
RUNTIME = {
    "workers": 2,
    "cpus_per_worker": 1,
    "precision": "fp32",
    "checkpoint_every": 5,
    "start_timeout_s": 60,
    "hang_timeout_s": 120,
}
TIMES = ("seconds", "images_per_s")  # what differs between two trainings that are the same
TRIES_APART_S = 4.0  # two workers stamp a step at nearly the same time, two tries of it are a new start apart


@dataclass
class Project:
    """A prepared project.

    Attributes:
        runtime: what it has otherwise than RUNTIME.
        variables: environment of its trainings.
        rest: seconds after each step.
    """

    folder: Path
    runtime: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    rest: float = 0.3

    @property
    def log(self) -> Path:
        """What the trainings have printed."""
        return self.folder / "training.log"

    @property
    def run(self) -> Path:
        """The run's folder in the storage."""
        storage = self.folder / str(self.runtime.get("storage", "runs"))
        return max(storage.glob("*/checkpoint_*")).parent

    def checkpoints(self) -> list[Path]:
        """The newest last."""
        return sorted(path for path in self.run.glob("checkpoint_*") if path.is_dir())

    def state(self) -> dict[str, Any]:
        """What the newest checkpoint holds."""
        state: dict[str, Any] = torch.load(self.checkpoints()[-1] / "state.pt", weights_only=True)
        return state

    def stamps(self) -> dict[int, list[tuple[float, int]]]:
        """Time and number of every step that a worker has done, by its process."""
        found = {}
        for path in (self.folder / STAMPS).glob("*"):
            lines = [line.split() for line in path.read_text().splitlines()]
            if lines:
                found[int(path.name)] = [(float(when), int(step)) for when, step in lines]
        return found

    @contextmanager
    def training(self) -> Iterator[subprocess.Popen[bytes]]:
        """The stage train; whatever is left of it at the end of the block is killed."""
        command = [sys.executable, "-m", "bench.stamped_training", str(self.rest)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env={**environment(), **self.variables}, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            kill_tree(process)

    def wait_for_step(self, step: int, process: subprocess.Popen[bytes]) -> None:
        """Until a worker has done that step."""
        self.wait(lambda: step <= max((s[-1][1] for s in self.stamps().values()), default=0), process)

    def wait(self, there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        """Until something is so, while the training runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not there():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the training did not come so far:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def ends_well(self, process: subprocess.Popen[bytes]) -> None:
        """Until the training has ended, which it must do without an error."""
        if process.wait(timeout=PATIENCE_S):
            raise RuntimeError(f"the training has failed:\n{self.log.read_text()[-3000:]}")

    def newcomers(self, since: float) -> list[int]:
        """Processes whose first step came after a time."""
        return [pid for pid, stamps in self.stamps().items() if stamps[0][0] > since]

    def seconds_until_it_went_on(self, since: float) -> float:
        """From a time to the end of the first step of new workers."""
        stamps = self.stamps()
        return min(stamps[pid][0][0] for pid in self.newcomers(since)) - since

    def steps_trained_again(self) -> int:
        """Over all workers together."""
        times: dict[int, list[float]] = {}
        for stamps in self.stamps().values():
            for when, step in stamps:
                times.setdefault(step, []).append(when)
        return sum(count_tries(sorted(stamped)) - 1 for stamped in times.values())


def count_tries(times: list[float]) -> int:
    """How often a step was trained, from its sorted stamps."""
    return 1 + sum(late - early > TRIES_APART_S for early, late in pairwise(times))


def environment() -> dict[str, str]:
    """Ours, without what would lead out of the project."""
    outside = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "PIPELINE_CONF", "RAY_ADDRESS")
    kept = {key: value for key, value in os.environ.items() if key not in outside}
    return kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}


def prepare(folder: Path) -> None:
    """A project after the stages prepare and anchor_stats."""
    (folder / "conf").mkdir(parents=True)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section] |= values
    params["data"]["shapes"] |= SHAPES
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("prepare", "anchor_stats"):
        subprocess.run([sys.executable, "-m", f"pipeline.{stage}"], cwd=folder, env=environment(), check=True)


def copy_of(prepared: Path, folder: Path, **options: Any) -> Project:
    """A copy of a prepared project, with its options; see Project."""
    shutil.copytree(prepared, folder)
    project = Project(folder, **options)
    runtime = yaml.safe_load((REPOSITORY / "conf/local.yaml").read_text()) | RUNTIME | dict(project.runtime)
    (folder / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    return project


def compare_curves(project: Project, reference: Project) -> str:
    """Equal in every loss, AP and weight; else the largest relative difference of a step's loss."""
    ours, theirs = project.state(), reference.state()
    if curve_of(ours) == curve_of(theirs) and is_same(*(each["training_state"]["model"] for each in (ours, theirs))):
        return "bitwise"
    pairs = zip(step_losses(ours), step_losses(theirs), strict=True)
    return f"{max(abs(one - other) / abs(other) for one, other in pairs):.1e}"


def is_same(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """To the bit."""
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in others)


def curve_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The history without times."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in state["history"]]


def step_losses(state: Mapping[str, Any]) -> list[float]:
    """Of all epochs."""
    return [loss for row in state["history"] for loss in row["step_losses"]]


def compare_outs(project: Project, reference: Project) -> str:
    """Whether DVC's outs of the stage say the same."""
    report, model = "reports/train.json", "models/model.pt"
    ours, theirs = (torch.load(one.folder / model, weights_only=True) for one in (project, reference))
    same = is_same(ours["weights"], theirs["weights"])
    same &= (project.folder / report).read_bytes() == (reference.folder / report).read_bytes()
    return "the same" if same else "whole"
