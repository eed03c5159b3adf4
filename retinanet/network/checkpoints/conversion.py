"""Conversion of another project's state dictionary to ours, so that the same image gives the same maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retinanet.network.checkpoints.architecture import check_complete, num_anchors, read_architecture, shape_of
from retinanet.network.checkpoints.sources import Source, recognise, rename, settings_of

EPS = 1e-5
"""Of the frozen normalisation here, in torchvision and in Detectron2."""
ANCHORS_PER_CELL = 9
BY_RATIO = [size * 3 + ratio for ratio in range(3) for size in range(3)]
"""Where the anchors of a cell, ratio by ratio, lie in the order size by size."""


class Converted(NamedTuple):
    """A converted network.

    Attributes:
        source: the project.
        state: the state dictionary of our network.
        sections: model, transforms, anchors and postprocess, in plain values.
        num_logits: K, of each anchor.
    """

    source: Source
    state: dict[str, Tensor]
    sections: dict[str, dict[str, Any]]
    num_logits: int


def convert(state: Mapping[str, Tensor], *, is_caffe: bool, norm_eps: float = EPS) -> Converted:
    """Convert a state dictionary of one of SOURCES.

    Args:
        is_caffe: whether it was trained from weights of Caffe's ResNet: BGR, no division by the standard deviation,
            stride in the first 1x1 convolution of a stage.
        norm_eps: what its frozen normalisation adds to the variance.

    Raises:
        ValueError: when it is none of them, or names or shapes are not those of a RetinaNet that can be built here.
    """
    source = recognise(state)
    own = complete_norms(number_towers(rename(state, source)))
    architecture = read_architecture(own)
    if num_anchors(own) != ANCHORS_PER_CELL:
        raise ValueError(
            f"the box head has {num_anchors(own)} anchors per cell, expected {ANCHORS_PER_CELL}; a network with other "
            "anchors than its project's own cannot be imported, because the file does not hold them"
        )
    num_logits = shape_of(own, "class_head.output.weight")[0] // ANCHORS_PER_CELL
    sections = settings_of(source, is_caffe=is_caffe)
    built = architecture | {key: sections["model"][key] for key in ("stride_in_1x1", "p7_relu")}
    check_complete(own, built, num_logits=num_logits, anchors_per_cell=ANCHORS_PER_CELL)
    if source.size_major:
        own = order_by_ratio(own)
    if is_caffe:
        own["backbone.conv1.weight"] = own["backbone.conv1.weight"].flip(1)  # BGR to RGB
    if norm_eps != EPS:
        own = fold_norms(own, norm_eps)
    sections["model"] = architecture | sections["model"]
    return Converted(source, {name: value.float() for name, value in own.items()}, sections, num_logits)


def number_towers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Number the layers of the heads as in our Sequential: convolution, norm where there is one, ReLU.

    Convolutions before a norm may have no bias; ours have one.
    """
    step = 3 if any(re.match(r"class_head\.norm\d", name) for name in state) else 2
    numbered = {}
    for name, value in state.items():
        match = re.fullmatch(r"(\w+_head)\.(conv|norm)(\d+)\.(\w+)", name)
        if match:
            head, kind, layer, leaf = match.groups()
            name = f"{head}.tower.{step * int(layer) + (kind == 'norm')}.{leaf}"
        numbered[name] = value
    biases = {
        name.replace(".weight", ".bias"): torch.zeros(len(value))
        for name, value in numbered.items()
        if step == 3 and ".tower." in name and value.ndim == 4
    }
    return biases | numbered


def complete_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add mean 0 and variance 1 if no norm of the backbone has statistics: then they are part of scale and shift."""
    if any(name.endswith((".running_mean", ".running_var")) for name in state):
        return dict(state)
    stems = [
        name.removesuffix(".weight")
        for name, value in state.items()
        if name.startswith("backbone.") and name.endswith(".weight") and value.ndim == 1
    ]
    means = {f"{stem}.running_mean": torch.zeros_like(state[f"{stem}.weight"]) for stem in stems}
    variances = {f"{stem}.running_var": torch.ones_like(state[f"{stem}.weight"]) for stem in stems}
    return means | variances | dict(state)


def order_by_ratio(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Order the anchors of a cell, in the outputs of both heads, by ratio and then by size."""
    outputs = {
        name: value.unflatten(0, (ANCHORS_PER_CELL, -1))[BY_RATIO].flatten(0, 1)
        for name, value in state.items()
        if "_head.output." in name
    }
    return {**state, **outputs}


def fold_norms(state: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """Fold the statistics of the backbone's norms, with their eps, into scale and shift.

    A channel of variance 1e-7 is scaled by 316 instead of 3162 with an eps of 1e-5 instead of 0.
    """
    folded = dict(state)
    for name, variance in state.items():
        if not name.endswith(".running_var"):
            continue
        stem = name.removesuffix(".running_var")
        scale = state[f"{stem}.weight"].double() / (variance.double() + eps).sqrt()
        folded[f"{stem}.weight"] = scale
        folded[f"{stem}.bias"] = state[f"{stem}.bias"].double() - state[f"{stem}.running_mean"].double() * scale
        folded[f"{stem}.running_mean"] = torch.zeros_like(variance)
        folded[name] = torch.full_like(variance, 1 - EPS)
    return folded
