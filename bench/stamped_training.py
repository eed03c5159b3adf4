"""The stage train of the current folder's project, with a time stamp at every step.

    python -m bench.stamped_training SECONDS

Each worker writes stamps/<its process>, a line "<time> <step>" for each step, and rests SECONDS after it, so that a
tiny training lasts long enough to be disturbed. Nothing else differs from `python -m pipeline.train`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.fit import fit
from pipeline.train import run as stage
from pipeline.train.__main__ import main as train
from retinanet.training.progress import StepLog

STAMPS = "stamps"


class Stamped:
    """`fit` with a stamp and a rest after each optimiser step. It travels to the workers by value."""

    def __init__(self, folder: Path, rest: float) -> None:
        self.folder, self.rest = folder, rest

    def __call__(self, config: dict[str, Any]) -> None:
        check = StepLog.check_recent_losses
        with (self.folder / str(os.getpid())).open("a", buffering=1) as file:

            def stamped(log: StepLog) -> None:
                check(log)
                file.write(f"{time.time()} {log.state.schedule.last_epoch}\n")  # torch's word for its steps
                time.sleep(self.rest)

            with patch.object(StepLog, "check_recent_losses", stamped):
                fit(config)


def main() -> None:
    """Train."""
    folder = Path(STAMPS).resolve()
    folder.mkdir(exist_ok=True)
    with patch.object(stage, "fit", Stamped(folder, float(sys.argv[1]))):
        train([])


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"train: {error}") from None
