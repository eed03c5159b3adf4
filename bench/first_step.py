"""From `dvc repro` to the first training step, in a clone of the last commit whose other stages are done.

    python -m bench.first_step [--repeats 3] [--write]

The step is seen by its checkpoint (checkpoint_every: 1 in conf/), whose writing counts too. Before each round the runs
of the clone are removed, but not MLflow's store, which the first round makes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from bench.ratios import header, keep, table
from tests.running import kill_tree

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0
MARKS = {
    "the stage has started": lambda folder: "Running stage" in log_of(folder),
    "the driver is ready": lambda folder: "epochs on" in log_of(folder),
    "Ray Train's controller is there": lambda folder: has_process("ray::TrainController"),
    "the workers are there": lambda folder: has_process("ray::RayTrainWorker"),
    "the first step is done, with its checkpoint": lambda folder: any(folder.glob("runs/*/checkpoint_*/sha256.json")),
}
"""What is waited for, one after the other."""


def log_of(folder: Path) -> str:
    """What the command has printed."""
    return (folder / "log").read_text()


def has_process(title: str) -> bool:
    """Whether a process of that title runs on this machine."""
    return any(" ".join(found.info["cmdline"] or []).startswith(title) for found in psutil.process_iter(["cmdline"]))


def environment() -> dict[str, str]:
    """Ours, with the commands of this Python and without what would lead elsewhere."""
    outside = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "PIPELINE_CONF", "RAY_ADDRESS", "PYTHONPATH")
    kept = {key: value for key, value in os.environ.items() if key not in outside}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "DVC_NO_ANALYTICS": "1"}


def prepare(folder: Path) -> None:
    """A clone whose training is what is left to do."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    runtime = folder / "conf/local.yaml"
    runtime.write_text(runtime.read_text().replace("checkpoint_every: null", "checkpoint_every: 1"))
    subprocess.run(["dvc", "repro", "--quiet", "anchor_stats"], cwd=folder, env=environment(), check=True)


def time_marks(folder: Path) -> list[float]:
    """Seconds from the command to each of MARKS, in their order."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    with (folder / "log").open("w") as log:
        begun = time.monotonic()
        process = subprocess.Popen(["dvc", "repro", "train"], cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        return [seconds_until(mark, folder, process) - begun for mark in MARKS.values()]
    finally:
        kill_tree(process)
        (folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)  # DVC's note on whom it works for


def seconds_until(mark: Callable[[Path], bool], folder: Path, process: subprocess.Popen[bytes]) -> float:
    """When it came, looked at ten times a second."""
    deadline = time.monotonic() + PATIENCE_S
    while not mark(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"first_step: the training did not come so far:\n{log_of(folder)[-2000:]}")
        time.sleep(0.1)
    return time.monotonic()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md")
    options = parser.parse_args()
    text = header()
    with tempfile.TemporaryDirectory(prefix="first_step") as temporary:
        folder = Path(temporary) / "clone"
        prepare(folder)
        rounds = [time_marks(folder) for _ in range(options.repeats)]
    rows = [
        [mark, f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})"]
        for mark, times in zip(MARKS, zip(*rounds, strict=True), strict=True)
    ]
    text += "\n\n" + table(["from `dvc repro train` until", "s"], rows)
    print(text)
    if options.write:
        keep("From the command to the first step", text)


if __name__ == "__main__":
    main()
