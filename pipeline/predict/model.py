"""The detector that the command names: a file, or a model in MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from pipeline.tracking.registry import download_weights
from retinanet.inference.detector import Detector

MLFLOW = ("models:/", "runs:/")


def load_model(name: str, device: torch.device) -> Detector:
    """Load a detector from a file, or from an MLflow model such as models:/cells@champion.

    Raises:
        ValueError: when there is no such file or model, or it is no detector.
    """
    if not name.startswith(MLFLOW):
        return Detector.load(Path(name).expanduser(), device)
    with tempfile.TemporaryDirectory() as folder:
        return Detector.load(download_weights(name, Path(folder)), device)
