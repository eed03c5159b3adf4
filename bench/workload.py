"""What a training step of a network computes and sends, counted on tensors without memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.params import Params
from retinanet.network.model import RetinaNet, build_model

NUM_CLASSES = 80  # COCO's


class Part(NamedTuple):
    """A piece of the network whose gradients are complete at the same time.

    Attributes:
        parameters: that are trained.
        backward_share: of the whole backward pass.
    """

    parameters: int
    backward_share: float


@dataclass(frozen=True)
class Workload:
    """One training step of a network, per image; parts in the order of the backward pass."""

    backbone: str
    forward_flops: int
    backward_flops: int
    parts: Sequence[Part]

    @property
    def parameters(self) -> int:
        """That are trained; each is 4 bytes of gradient."""
        return sum(part.parameters for part in self.parts)


def count_workload(params: Params, backbone: str) -> Workload:
    """Count a preset's network with that backbone, without computing anything."""
    model, transforms = params.model, params.transforms
    kept = model.model_dump(exclude={"backbone", "weights", "box_means", "box_stds"})
    short = transforms.short_side if isinstance(transforms.short_side, int) else max(transforms.short_side)
    height, width = (pad(side, transforms.size_divisor) for side in (short, transforms.long_side))
    with torch.device("meta"):
        network = build_model(num_logits=NUM_CLASSES, backbone=backbone, **kept)
        images = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as forward:
        predictions = network(images)
    with FlopCounterMode(display=False) as backward:
        sum(level.sum() for maps in predictions for level in maps).backward()
    flops = {name: sum(by_operation.values()) for name, by_operation in forward.get_flop_counts().items()}
    return Workload(backbone, flops["Global"], backward.get_total_flops(), count_parts(network, flops))


def pad(side: int, divisor: int) -> int:
    """The next multiple, px."""
    return math.ceil(side / divisor) * divisor


def count_parts(network: RetinaNet, flops: dict[str, int]) -> list[Part]:
    """Both heads, the pyramid, then the backbone block by block from its end.

    The heads' weights serve all levels, so their gradients are complete only after the last. A backward pass takes
    about as long in a part as its forward pass, times the same factor.
    """
    groups = [["class_head", "box_head"], ["pyramid"]]
    for stage in ("layer4", "layer3", "layer2", "layer1"):
        blocks = [name for name, _ in network.get_submodule(f"backbone.{stage}").named_children()]
        groups += [[f"backbone.{stage}.{name}"] for name in reversed(blocks)]
    groups += [["backbone.conv1", "backbone.bn1"]]
    counted = [
        (
            sum(count_trained(network.get_submodule(name)) for name in group),
            sum(flops.get(f"RetinaNet.{name}", 0) for name in group),
        )
        for group in groups
    ]
    trained = [(parameters, operations) for parameters, operations in counted if parameters]
    total = sum(operations for _, operations in trained)
    return [Part(parameters, operations / total) for parameters, operations in trained]


def count_trained(module: nn.Module) -> int:
    """Numbers that the optimiser changes."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
