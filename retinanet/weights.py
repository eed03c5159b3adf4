"""Weights in and out: backbones learnt elsewhere, and the one file that holds a trained detector."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision.models as models
from torch import Tensor

from retinanet.backbone import Backbone

FORMAT = 1
# Weights of the first recipe: those that the paper's learning rate was made for.
IMAGENET = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": models.ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": models.ResNet101_Weights.IMAGENET1K_V1,
    "resnet152": models.ResNet152_Weights.IMAGENET1K_V1,
    "resnext50_32x4d": models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1,
}


def load_backbone_weights(backbone: Backbone, name: str, weights: str) -> None:
    """Fill a backbone with weights learnt elsewhere.

    Args:
        name: of the backbone.
        weights: "imagenet" for torchvision's (from its cache, downloaded once), else a file that holds a state
            dictionary of torchvision's ResNet; a classifier in it is passed over.

    Raises:
        ValueError: when the file does not exist or holds another network's weights.
    """
    if weights == "imagenet":
        state = IMAGENET[name].get_state_dict(progress=True, check_hash=True)
    elif Path(weights).is_file():
        state = torch.load(weights, map_location="cpu", weights_only=True)
    else:
        raise ValueError(f"model.weights is {weights!r}: no such file; expected imagenet or a file with a ResNet's weights")
    own = backbone.state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
    surplus = [key for key in kept if key not in own and not key.endswith("num_batches_tracked")]
    missing = [key for key in own if key not in kept and not key.endswith("num_batches_tracked")]
    if surplus or missing:
        raise ValueError(
            f"model.weights {weights!r} does not fit {name}: {len(missing)} entries are missing (first: {missing[:1]}), "
            f"{len(surplus)} are unknown (first: {surplus[:1]}); is it another backbone, or another model.norm?"
        )
    backbone.load_state_dict({key: value for key, value in kept.items() if key in own}, strict=False)


def save_detector(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a trained detector: its weights, and in plain values all that is needed to build it and to trace it.

    The file appears under its name only when it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    torch.save({"format": FORMAT, "weights": weights, "description": dict(description)}, temporary)
    temporary.replace(path)


def load_detector(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the description in a file of save_detector.

    Raises:
        ValueError: when the file is missing, or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the train stage first") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} holds no detector of this version (format {FORMAT}); run the train stage again")
    return content["weights"], content["description"]
