"""Trainings of the project of the current folder on a real Ray, and what they ended with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster import Resources, start_ray
from pipeline.cluster.training import train_on_ray
from pipeline.fit import fit
from pipeline.params import load_params
from pipeline.params.place import load_place
from pipeline.train.run import worker_config

TIMES = ("seconds", "images_per_s")


@dataclass
class Trained:
    """What a training ended with."""

    history: list[dict[str, Any]]
    learner: dict[str, Any]
    events: list[dict[str, Any]]

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
    place = load_place().model_copy(update={"workers": workers, "images_per_step": images_per_step, **options})
    events: list[dict[str, Any]] = []
    resources = Resources.of(place)
    with start_ray("local", resources):
        train_on_ray(
            train_function,
            worker_config(load_params(), place, digest="d1", run=f"{storage}/d1"),
            resources=resources,
            name="d1",
            storage=str(storage),
            on_event=lambda event: (events.append(event), on_event(event)),
            export=lambda folder: None,
        )
    state = torch.load(max((storage / "d1").glob("checkpoint_*/state.pt")), weights_only=True)
    return Trained(state["history"], state["learner"], events)
