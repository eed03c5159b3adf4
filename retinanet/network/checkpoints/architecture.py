"""The network of a state dictionary, read from names and shapes, and the check that it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retinanet.network.backbone import CHANNELS_PER_GROUP
from retinanet.network.model import build_model

State = Mapping[str, Tensor]

BLOCKS = {
    (2, 2, 2, 2): {"basic": "resnet18"},
    (3, 4, 6, 3): {"basic": "resnet34", "bottleneck": "resnet50", "grouped": "resnext50_32x4d"},
    (3, 4, 23, 3): {"bottleneck": "resnet101"},
    (3, 8, 36, 3): {"bottleneck": "resnet152"},
}
"""Residual blocks in the stages C2 to C5, and the backbones with them."""
NUM_GROUPS = 32
"""Of a group normalisation, in every project; ours has that many at 256 channels."""


def read_architecture(state: State) -> dict[str, Any]:
    """The keys of section `model` that names and shapes decide.

    Raises:
        ValueError: naming what is missing, or what our network cannot be.
    """
    backbone = read_backbone(state)
    fpn_channels, c5 = shape_of(state, "pyramid.laterals.2.weight")[:2]
    p6 = shape_of(state, "pyramid.p6.weight")[1]
    depth = sum(name.startswith("class_head.tower.") and value.ndim == 4 for name, value in state.items())
    channels = shape_of(state, "class_head.output.weight")[1]
    has_norm = any(name.startswith("class_head.tower.") and is_scale(name, value) for name, value in state.items())
    if has_norm and channels != NUM_GROUPS * CHANNELS_PER_GROUP:
        raise ValueError(f"group normalisation in heads of {channels} channels; only heads of 256 can be imported")
    return {
        "backbone": backbone,
        "norm": "frozen_batch",
        "fpn_channels": fpn_channels,
        "p6_from": "c5" if p6 == c5 else "p5",
        "head_channels": channels,
        "head_depth": depth,
        "head_norm": "group" if has_norm else "none",
    }


def read_backbone(state: State) -> str:
    """The key of BACKBONES with these blocks.

    Raises:
        ValueError: when there is none.
    """
    names = {".".join(name.split(".")[1:3]) for name in state if name.startswith("backbone.layer")}
    counts = tuple(sum(name.startswith(f"layer{stage}.") for name in names) for stage in (1, 2, 3, 4))
    kind = "basic"
    if "backbone.layer1.0.conv3.weight" in state:
        width, per_group = shape_of(state, "backbone.layer1.0.conv2.weight")[:2]
        kind = "bottleneck" if width == per_group else "grouped"
    if counts not in BLOCKS or kind not in BLOCKS[counts]:
        raise ValueError(
            f"the backbone has {', '.join(map(str, counts))} {kind} blocks in its stages; expected one of "
            f"{', '.join(name for names in BLOCKS.values() for name in names.values())}"
        )
    return BLOCKS[counts][kind]


def is_scale(name: str, value: Tensor) -> bool:
    """Whether an entry is the scale of a normalisation."""
    return name.endswith(".weight") and value.ndim == 1


def shape_of(state: State, name: str) -> tuple[int, ...]:
    """The shape of an entry.

    Raises:
        ValueError: when it is missing.
    """
    if name not in state or state[name].ndim != 4:
        raise ValueError(f"{name} is missing, or no convolution; expected the weights of a whole RetinaNet")
    return tuple(state[name].shape)


def num_anchors(state: State) -> int:
    """Anchors per cell, by the four channels that the box head has for each."""
    return shape_of(state, "box_head.output.weight")[0] // 4


def check_complete(state: State, model: Mapping[str, Any], *, num_logits: int, anchors_per_cell: int) -> None:
    """Compare names and shapes with those of our network.

    Args:
        model: arguments of build_model.

    Raises:
        ValueError: listing what is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        expected = build_model(num_logits=num_logits, anchors_per_cell=anchors_per_cell, **model).state_dict()
    missing = [name for name in expected if name not in state]
    left_over = [name for name in state if name not in expected]
    shapes = [
        f"{name} {list(state[name].shape)} for {list(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    parts = {"missing": missing, "left over": left_over, "of another shape": shapes}
    if any(parts.values()):
        text = "; ".join(f"{len(names)} {what}: {', '.join(names[:20])}" for what, names in parts.items() if names)
        raise ValueError(f"the weights are not those of one RetinaNet by its names here: {text}")
