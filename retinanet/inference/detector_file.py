"""The file of a trained detector: its weights, and a description in plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from retinanet.network.weights_file import load_plain

FORMAT = 1


def describe_detector(
    *,
    model: dict[str, Any],
    loss: dict[str, Any],
    transforms: dict[str, Any],
    anchors: dict[str, Any],
    categories: list[dict[str, Any]],
    run: dict[str, Any],
) -> dict[str, Any]:
    """The description of a detector, in plain values as its file stores it."""
    return {
        "model": model,
        "loss": loss,
        "transforms": transforms,
        "anchors": anchors,
        "categories": categories,
        "run": run,
    }


def save_detector(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a trained detector: its weights, and the description to rebuild and to trace it.

    The file appears under its name only when it is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    try:
        torch.save({"format": FORMAT, "weights": weights, "description": dict(description)}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_detector(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and the description in a file of save_detector.

    Raises:
        ValueError: when the file is missing, or is no detector.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; run the train stage first")
    content = demand_detector(load_plain(path), path)
    return content["weights"], content["description"]


def demand_detector(content: object, path: Path | str) -> dict[str, Any]:
    """Return the content of a file if it is a detector of this version, else raise ValueError."""
    if not is_detector(content) or content["format"] != FORMAT:
        raise ValueError(f"{path} holds no detector of this version (format {FORMAT}); run the train stage again")
    return content


def is_detector(content: object) -> TypeGuard[dict[str, Any]]:
    """Whether the content of a file is a detector of any version."""
    return isinstance(content, dict) and content.keys() >= {"format", "weights", "description"}
