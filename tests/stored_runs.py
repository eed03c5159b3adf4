"""Runs as a training leaves them in its storage, without the training."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from pipeline.clean.run import run
from pipeline.runs.checksums import write_checksums
from pipeline.runs.identity import BEST, ENDED, ROWS, RUN_ID, RunFolder
from pipeline.storage.outs import write_json
from retinanet.inference.detector_file import save_detector

RUNS = [f"{number:016x}-0000000{number}" for number in range(10)]
HISTORY = [{"epoch": 1, "AP": 0.5}, {"epoch": 2, "AP": 0.25}]


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def commit_report(name: str | None) -> str:
    """A commit whose reports/train.json names a run."""
    write_json(Path("reports/train.json"), {"run": name})
    git("add", "reports")
    git("commit", "-q", "--allow-empty", "-m", str(name))
    return git("rev-parse", "HEAD")


def add_run(storage: Path, name: str, *, has_ended: bool = True, mlflow: str | None = None) -> Path:
    """A run with two checkpoints and Ray's notes."""
    for step in (1, 2):
        checkpoint = storage / name / f"checkpoint_00000000{step}_{step}"
        save_detector(checkpoint / BEST, {"w": torch.full((2,), float(step))}, {"run": {"digest": name, "epoch": 1}})
        write_json(checkpoint / ROWS, HISTORY)
        (checkpoint / "state.pt").write_bytes(b"0" * 5000)
        write_checksums(checkpoint)
    (storage / name / "checkpoint_manager_snapshot.json").write_text("{}")
    for text, content in ((ENDED, "2" if has_ended else None), (RUN_ID, mlflow)):
        if content is not None:
            RunFolder(str(storage), name).write(text, content)
    return storage / name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clean(here: Path, *, unfinished: bool = False) -> set[str]:
    """What is left in the storage after --delete."""
    run(f"{here}/runs", delete=True, unfinished=unfinished)
    return {path.name for path in (here / "runs").iterdir() if path.name != "locks"}
