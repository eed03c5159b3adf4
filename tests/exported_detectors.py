"""Detectors of every kind for the tests of export: random weights that find something everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from retinanet.anchors.grid import build_grid
from retinanet.inference.detector import Detector, build_network

MODEL = {
    "backbone": "resnet18",
    "weights": None,
    "norm": "group",
    "frozen_stages": 0,
    "fpn_channels": 8,
    "p6_from": "c5",
    "head_channels": 8,
    "head_depth": 1,
    "head_norm": "group",
    "prior": 0.01,
    "box_means": [0.0, 0.0, 0.0, 0.0],
    "box_stds": [1.0, 1.0, 1.0, 1.0],
}
TRANSFORMS = {"short_side": 64, "long_side": 96, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.21, 0.22]}
IMPORTED = {"norm": "frozen_batch", "head_norm": "none"}
POINT = {"num_truths": 2, "true_positives": [1], "false_positives": [0], "thresholds": [0.8]}
POINTS = {"overall": POINT, "classes": [POINT] * 3}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "group_norm": {},
    "softmax": {"loss": {"class_loss": "softmax_focal"}},
    "torchvision": {
        "model": IMPORTED,
        "anchors": {"rounded": True, "strides_from_image": True, "offset": 0.0},
        "postprocess": {"max_detections": 300, "min_size": None},
        "transforms": {"resize": "torchvision"},
    },
    "detectron2": {"model": {**IMPORTED, "backbone": "resnet50", "stride_in_1x1": True}, "anchors": {"offset": 0.0}},
    "mmdetection": {
        "model": {**IMPORTED, "p7_relu": False, "box_limits": "both"},
        "anchors": {"offset": 0.0},
        "transforms": {"resize": "opencv"},
    },
    "yhenon": {
        "model": {**IMPORTED, "box_limits": "none", "box_stds": [0.1, 0.1, 0.2, 0.2], "box_means": [0.0, 0.1, 0, 0]},
        "postprocess": {"candidates_per_level": None, "max_detections": 50, "min_size": None},
    },
    "batch_norm": {"model": {"norm": "batch", "p6_from": "p5"}, "transforms": {"size_divisor": 7}},
    "large_boxes": {"postprocess": {"min_size": 30.0, "score_threshold": 0.4, "nms_iou": 0.7}},
    "few": {"postprocess": {"candidates_per_level": 7}},
    "sharper": {"postprocess": {"calibrate": True}, "working_point": POINTS | {"temperature": 0.6}},
    "flatter": {
        "loss": {"class_loss": "softmax_focal"},
        "postprocess": {"calibrate": True, "max_detections": 20, "score_threshold": 0.3},
        "working_point": POINTS | {"temperature": 2.5},
    },
}


def build_detector(name: str) -> Detector:
    """The detector of a variant."""
    torch.manual_seed(0)
    variant = VARIANTS[name]
    description = {
        "model": MODEL | variant.get("model", {}),
        "loss": {"class_loss": "sigmoid_focal"} | variant.get("loss", {}),
        "transforms": TRANSFORMS | variant.get("transforms", {}),
        "anchors": build_grid(base_scale=2.0, **variant.get("anchors", {})).to_dict(),
        "categories": [{"id": 3, "name": "brick"}, {"id": 7, "name": "leaf"}, {"id": 8, "name": "pond"}],
        "postprocess": variant.get("postprocess", {}),
        "working_point": variant.get("working_point"),
        "run": {"digest": "abc", "epoch": 2, "AP": 0.5},
    }
    network = build_network(description)
    nn.init.normal_(network.class_head.output.weight, std=0.1)
    nn.init.zeros_(network.class_head.output.bias)
    nn.init.normal_(network.box_head.output.weight, std=0.03)
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)  # so that a residual block adds a little
        if hasattr(module, "running_var"):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return Detector(network.eval(), description)


def draw_pictures(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Pictures [3, H, W] uint8 of noise in blocks."""
    generator = torch.Generator().manual_seed(3)
    pictures = []
    for height, width in sizes:
        blocks = torch.randint(0, 256, (3, -(-height // 9), -(-width // 9)), generator=generator, dtype=torch.uint8)
        pictures.append(blocks.repeat_interleave(9, 1).repeat_interleave(9, 2)[:, :height, :width])
    return pictures
