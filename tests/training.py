"""Trainings of the project of the current folder on a real Ray, and what they ended with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.cluster import Resources, start_ray
from pipeline.cluster.training import train_on_ray
from pipeline.fit import fit
from pipeline.fit.loop import load_splits, train_worker
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.worker_config import worker_config
from tests.alone import alone

TIMES = ("seconds", "images_per_s")
LONG = 8  # epochs: long enough to be killed within


@dataclass
class Trained:
    """What a training ended with.

    Attributes:
        storage: the folder of its runs, where it has one; the run is d1.
    """

    history: list[dict[str, Any]]
    state: dict[str, Any]
    events: list[dict[str, Any]]
    storage: Path | None = None

    @property
    def step_losses(self) -> list[float]:
        return [loss for row in self.history for loss in row["step_losses"]]

    @property
    def curve(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in self.history]

    @property
    def resumed_from(self) -> list[int]:
        return [event["epoch"] for event in self.events if event["kind"] == "resume"]

    @property
    def resumed_at(self) -> list[tuple[int, int]]:
        """Epochs that had ended, and steps of the next."""
        return [(event["epoch"], event["step"]) for event in self.events if event["kind"] == "resume"]

    @property
    def warnings(self) -> list[str]:
        return [event["text"] for event in self.events if event["kind"] == "warning"]


def train(
    storage: Path,
    *,
    workers: int | list[int],
    images_per_step: int | None = None,
    train_function: Callable[[dict[str, Any]], None] = fit,
    on_event: Callable[[dict[str, Any]], object] = lambda event: None,
    **options: Any,
) -> Trained:
    """Train the project of the current folder, with options of conf/."""
    runtime = load_runtime().model_copy(update={"workers": workers, "images_per_step": images_per_step, **options})
    events: list[dict[str, Any]] = []
    resources = Resources.of(runtime)
    with start_ray("local", resources):
        train_on_ray(
            train_function,
            worker_config(load_params(), runtime, digest="d1", run=f"{storage}/d1"),
            resources=resources,
            name="d1",
            storage=str(storage),
            on_event=lambda event: (events.append(event), on_event(event)),
            export=lambda folder: None,
        )
    state = torch.load(max((storage / "d1").glob("checkpoint_*/state.pt")), weights_only=True)
    return Trained(state["history"], state["training_state"], events, storage)


def train_in_process(folder: Path, **options: Any) -> Trained:
    """Train the project of the current folder as one worker in this process, without Ray.

    Args:
        folder: for its last checkpoint; it is made.
        options: of conf/.
    """
    params, runtime = load_params(), load_runtime().model_copy(update=options)
    kept: list[dict[str, Any]] = []

    def keep(metrics: dict[str, Any], write: Any) -> None:
        if not metrics["is_partial"] and len(metrics["history"]) == params.train.epochs:
            folder.mkdir()
            write(folder)
            kept.append(torch.load(folder / "state.pt", weights_only=True))

    config = worker_config(params, runtime, digest="d1", run=str(folder))
    threads = torch.get_num_threads()
    train_worker(config, replace(alone(), report=keep), *load_splits(config.data))
    torch.set_num_threads(threads)
    (state,) = kept
    return Trained(state["history"], state["training_state"], [])


def lengthen(project: Path) -> None:
    """Train for LONG epochs."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["train"]["epochs"] = LONG
    (project / "params.yaml").write_text(yaml.safe_dump(params))
