"""The files of a checkpoint: training state, progress, history, and the best detector so far."""

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
from retinanet.training.progress import TrainingProgress
from retinanet.training.state import TrainingState

STATE = "state.pt"
KEYS = {"training_state", "progress", "history"}  # of this file

NOT_EVALUATED = -1.0  # the AP of an epoch without one: below every other


@dataclass
class CheckpointContent:
    """What a checkpoint stores beside the training state.

    Attributes:
        progress: of the training, within the epoch.
        history: a row for each finished epoch.
        step: of the newest checkpoint, since the start of training.
        best: weights and description of the best detector by AP, on the CPU; in the first worker only.
    """

    progress: TrainingProgress = field(default_factory=TrainingProgress)
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    best: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None

    def keep_best(self, state: TrainingState, description: Mapping[str, Any]) -> None:
        """Keep the current detector, unless an earlier epoch had at least the same AP."""
        row, ap = self.history[-1], ap_of(self.history[-1])
        if self.best is not None and ap > NOT_EVALUATED and ap <= ap_of(self.best[1]["run"]):
            return
        run = {**description["run"], "epoch": row["epoch"], "AP": row.get("AP")}
        weights = {key: value.detach().cpu().clone() for key, value in state.inference_network.state_dict().items()}
        self.best = (weights, {**description, "run": run})

    def writer(self, state: TrainingState) -> Callable[[Path], None]:
        """A function that writes the checkpoint into a folder."""

        def write(folder: Path) -> None:
            content = {"training_state": state.state_dict(), "progress": asdict(self.progress), "history": self.history}
            torch.save(content, folder / STATE)
            write_json(folder / ROWS, [without_steps(row) for row in self.history])
            if self.best is not None:
                save_detector(folder / BEST, *self.best)

        return write


def ap_of(row: Mapping[str, Any]) -> float:
    """AP of an epoch."""
    return NOT_EVALUATED if row.get("AP") is None else float(row["AP"])


def without_steps(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the losses of its steps, which are many; only state.pt stores them."""
    return {key: value for key, value in row.items() if key != "step_losses"}


def resume(state: TrainingState, worker: Worker) -> CheckpointContent:
    """Load the newest checkpoint of this run into the training state; without one, start from the beginning.

    Raises:
        ValueError: when the checkpoint is of another version of this code.
    """
    with worker.last_checkpoint() as folder:
        if folder is None:
            return CheckpointContent()
        content = torch.load(folder / STATE, map_location=state.device, weights_only=True)
        best = load_detector(folder / BEST) if worker.rank == 0 and (folder / BEST).exists() else None
    if not content.keys() >= KEYS:
        raise ValueError(
            f"the checkpoint has the keys {', '.join(content)}, expected {', '.join(sorted(KEYS))}; it is from another "
            "version: check out the commit that wrote it, or set resume: never in conf/ to start from the beginning"
        )
    state.load_state_dict(content["training_state"])
    progress = TrainingProgress(**content["progress"] | {"stop": False})
    return CheckpointContent(progress, content["history"], state.schedule.last_epoch, best)
