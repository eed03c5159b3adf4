"""The detector that a command names: a file, a URL, or a model in MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import pipeline.storage.stores  # noqa: F401  with which fsspec reaches buckets as the trainings do
from pipeline.runs.downloads import download, name_of
from pipeline.tracking.registry import download_weights
from retinanet.inference.detector import Detector

MLFLOW = ("models:/", "runs:/")


def load_model(name: str, device: torch.device) -> Detector:
    """Load a detector from a file, a URL, or an MLflow model such as models:/cells@champion.

    Raises:
        ValueError: when there is no such file or model, or it is no detector.
    """
    with tempfile.TemporaryDirectory() as folder:
        return Detector.load(find_weights(name, Path(folder)), device)


def find_weights(name: str, folder: Path) -> Path:
    """Return the file of a detector; one that is not on this machine is downloaded into the folder.

    Raises:
        ValueError: when it cannot be downloaded.
    """
    if name.startswith(MLFLOW):
        return download_weights(name, folder)
    if "://" not in name:
        return Path(name).expanduser()
    path = folder / name_of(name)
    download(name, path, title="--model", what="--model", advice="check the address, or give a file")
    return path


def choose_device(name: str | None) -> torch.device:
    """Return the device of a name; by default a GPU where there is one.

    Raises:
        ValueError: when torch does not know it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used ({str(error).splitlines()[0]}); use cpu or cuda") from None
    return device
