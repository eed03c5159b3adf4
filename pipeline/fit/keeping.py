"""What a checkpoint holds: the state of training, and the best detector so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.cluster.worker import Worker
from pipeline.runs.identity import BEST, ROWS
from pipeline.storage.outs import write_json
from retinanet.inference.detector_file import load_detector, save_detector
from retinanet.training.engine import Course
from retinanet.training.learner import Learner

STATE = "state.pt"

NOT_EVALUATED = -1.0  # the AP of an epoch without one: below every other


@dataclass
class Kept:
    """How far a training is, with what it has to show.

    Attributes:
        course: within the epoch.
        history: a row for each epoch that has ended.
        step: of the newest checkpoint, since the start of training.
        best: weights and description of the best detector by AP, on the CPU; in the first worker only.
    """

    course: Course = field(default_factory=Course)
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    best: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None

    def keep_best(self, learner: Learner, description: Mapping[str, Any]) -> None:
        """Keep the detector as it is now, unless an earlier epoch had a higher AP."""
        row, ap = self.history[-1], ap_of(self.history[-1])
        if self.best is not None and ap > NOT_EVALUATED and ap <= ap_of(self.best[1]["run"]):
            return
        run = {**description["run"], "epoch": row["epoch"], "AP": row.get("AP")}
        weights = {key: value.detach().cpu().clone() for key, value in learner.judged.state_dict().items()}
        self.best = (weights, {**description, "run": run})

    def writer(self, learner: Learner) -> Callable[[Path], None]:
        """A function that writes all of this into a folder."""

        def write(folder: Path) -> None:
            state = {"learner": learner.state_dict(), "course": asdict(self.course), "history": self.history}
            torch.save(state, folder / STATE)
            write_json(folder / ROWS, [without_steps(row) for row in self.history])
            if self.best is not None:
                save_detector(folder / BEST, *self.best)

        return write


def ap_of(row: Mapping[str, Any]) -> float:
    """AP of an epoch."""
    return NOT_EVALUATED if row.get("AP") is None else float(row["AP"])


def without_steps(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the losses of its steps, which are many; those stay in the checkpoint's state."""
    return {key: value for key, value in row.items() if key != "step_losses"}


def resume(learner: Learner, worker: Worker) -> Kept:
    """Go on from the newest checkpoint of this run: load it into the learner; without one, begin."""
    with worker.last_checkpoint() as folder:
        if folder is None:
            return Kept()
        state = torch.load(folder / STATE, map_location=learner.device, weights_only=True)
        best = load_detector(folder / BEST) if worker.rank == 0 and (folder / BEST).exists() else None
    learner.load_state_dict(state["learner"])
    return Kept(Course(**state["course"] | {"stop": False}), state["history"], learner.schedule.last_epoch, best)
