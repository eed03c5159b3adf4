"""The projects whose RetinaNets are recognised: their names of weights, and the settings that go with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Sections hold what params.yaml can say; model.box_limits alone is of the detector's file, see decode_boxes.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
ONE_GREY_LEVEL = [1 / 255] * 3
"""Standard deviation of Caffe's pre-processing, which only subtracts the mean of images in [0, 255]."""

PAPER_ANCHORS: dict[str, Any] = {
    "base_scale": 4.0,
    "scales_per_octave": 3,
    "sizes": None,
    "aspect_ratios": [0.5, 1.0, 2.0],
    "offset": 0.0,
    "rounded": False,
    "strides_from_image": False,
}
# Of torchvision, which rounds the sizes of each octave down: 32, 32 * 2^(1/3), 32 * 2^(2/3).
TORCHVISION_SIZES = [[float(int(side * 2 ** (i / 3))) for i in range(3)] for side in (32, 64, 128, 256, 512)]
POSTPROCESS: dict[str, Any] = {
    "score_threshold": 0.05,
    "candidates_per_level": 1000,
    "nms_iou": 0.5,
    "max_detections": 100,
    "min_size": 0.0,
    "calibrate": False,
}
COCO_SIZE: dict[str, Any] = {"short_side": 800, "long_side": 1333}


@dataclass(frozen=True)
class Source:
    """A project, its names and its settings.

    Attributes:
        name: of the project.
        mark: a name that begins with it belongs to this project.
        dropped: pattern of names that a detector does not need.
        rules: pattern and replacement of the others; the first that matches a whole name counts.
        settings: parts of sections model, transforms, anchors and postprocess that differ from those below.
        size_major: the anchors of a cell are ordered by size, then by ratio.
    """

    name: str
    mark: str
    dropped: str
    rules: tuple[Rule, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    size_major: bool = False


def settings_of(source: Source, *, is_caffe: bool) -> dict[str, dict[str, Any]]:
    """Sections transforms, anchors, postprocess and part of section model, in plain values."""
    transforms = {
        **COCO_SIZE,
        "resize": "pillow",
        "size_divisor": 32,
        "mean": IMAGENET_MEAN,
        "std": ONE_GREY_LEVEL if is_caffe else IMAGENET_STD,
        "scaled_decoding": False,
    }
    model = {"stride_in_1x1": is_caffe, "p7_relu": True, "box_means": [0.0] * 4, "box_stds": [1.0] * 4}
    sections = {"model": model, "transforms": transforms, "anchors": PAPER_ANCHORS, "postprocess": POSTPROCESS}
    return {name: {**section, **source.settings.get(name, {})} for name, section in sections.items()}


def rename(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Rename every entry of a state dictionary to ours.

    Raises:
        ValueError: listing the names that the project's RetinaNet does not have.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        if re.fullmatch(source.dropped, name):
            continue
        own = rename_one(name, source.rules)
        if own is None or own in renamed:
            unknown.append(name)
        else:
            renamed[own] = value
    if unknown:
        raise ValueError(
            f"{len(unknown)} names are not those of a RetinaNet of {source.name}: {', '.join(unknown[:20])}; "
            "other heads, necks and backbones cannot be imported"
        )
    return renamed


def rename_one(name: str, rules: tuple[Rule, ...]) -> str | None:
    """Our name of an entry; None without a rule for it."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement) if isinstance(replacement, str) else replacement(match)
    return None


LEAF = r"(weight|bias)"
TRACKED = r".*num_batches_tracked"


def _head(match: re.Match[str]) -> str:
    """class_head for every project's word for it, else box_head."""
    return "class_head" if match[1].startswith("cl") else "box_head"


def _pyramid(part: str) -> Callable[[re.Match[str]], str]:
    """A part of the pyramid by the level, P3 to P5, in its name."""
    return lambda match: f"pyramid.{part}.{int(match[1]) - 3}.{match[2]}"


def _detectron_block(match: re.Match[str]) -> str:
    """A convolution or norm of a residual block: Detectron2 counts stages from 2, and nests norms in convolutions."""
    stage, block, layer, norm, leaf = match.groups()
    if layer == "shortcut":
        own = f"downsample.{1 if norm else 0}"
    else:
        own = f"{'bn' if norm else 'conv'}{layer[-1]}"
    return f"backbone.layer{int(stage) - 1}.{block}.{own}.{leaf}"


TORCHVISION = Source(
    "torchvision",
    "head.classification_head.",
    TRACKED,
    (
        (r"backbone\.body\.(.+)", r"backbone.\1"),
        (rf"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?{LEAF}", r"pyramid.laterals.\1.\2"),
        (rf"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?{LEAF}", r"pyramid.outputs.\1.\2"),
        (rf"backbone\.fpn\.extra_blocks\.(p[67])\.{LEAF}", r"pyramid.\1.\2"),
        (rf"head\.(\w+)_head\.(?:cls_logits|bbox_reg)\.{LEAF}", lambda m: f"{_head(m)}.output.{m[2]}"),
        (rf"head\.(\w+)_head\.conv\.(\d)\.0\.{LEAF}", lambda m: f"{_head(m)}.conv{m[2]}.{m[3]}"),
        (rf"head\.(\w+)_head\.conv\.(\d)\.1\.{LEAF}", lambda m: f"{_head(m)}.norm{m[2]}.{m[3]}"),
        # Before version 0.14: a convolution and a ReLU in turn.
        (rf"head\.(\w+)_head\.conv\.([0246])\.{LEAF}", lambda m: f"{_head(m)}.conv{int(m[2]) // 2}.{m[3]}"),
    ),
    {
        "transforms": {"resize": "torchvision"},
        "anchors": {"sizes": TORCHVISION_SIZES, "rounded": True, "strides_from_image": True},
        "postprocess": {"max_detections": 300, "min_size": None},
    },
)

DETECTRON2 = Source(
    "Detectron2",
    "backbone.bottom_up.",
    r"pixel_mean|pixel_std|anchor_generator\.cell_anchors\.\d|" + TRACKED,
    (
        (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", r"backbone.bn1.\1"),
        (r"backbone\.bottom_up\.stem\.conv1\.weight", r"backbone.conv1.weight"),
        (r"backbone\.bottom_up\.res([2-5])\.(\d+)\.(conv[123]|shortcut)\.(norm\.)?(\w+)", _detectron_block),
        (rf"backbone\.fpn_lateral([345])\.{LEAF}", _pyramid("laterals")),
        (rf"backbone\.fpn_output([345])\.{LEAF}", _pyramid("outputs")),
        (rf"backbone\.top_block\.(p[67])\.{LEAF}", r"pyramid.\1.\2"),
        (rf"head\.(cls|bbox)_subnet\.(\d+)\.{LEAF}", lambda m: f"{_head(m)}.tower.{m[2]}.{m[3]}"),
        (rf"head\.(cls_score|bbox_pred)\.{LEAF}", lambda m: f"{_head(m)}.output.{m[2]}"),
    ),
    size_major=True,
)

MMDETECTION = Source(
    "MMDetection",
    "bbox_head.retina_cls.",
    r"data_preprocessor\..*|" + TRACKED,
    (
        (rf"neck\.lateral_convs\.([012])\.conv\.{LEAF}", r"pyramid.laterals.\1.\2"),
        (rf"neck\.fpn_convs\.([012])\.conv\.{LEAF}", r"pyramid.outputs.\1.\2"),
        (rf"neck\.fpn_convs\.([34])\.conv\.{LEAF}", lambda m: f"pyramid.p{int(m[1]) + 3}.{m[2]}"),
        (rf"bbox_head\.(cls|reg)_convs\.(\d+)\.conv\.{LEAF}", lambda m: f"{_head(m)}.conv{m[2]}.{m[3]}"),
        (rf"bbox_head\.(cls|reg)_convs\.(\d+)\.gn\.{LEAF}", lambda m: f"{_head(m)}.norm{m[2]}.{m[3]}"),
        (rf"bbox_head\.retina_(cls|reg)\.{LEAF}", lambda m: f"{_head(m)}.output.{m[2]}"),
        (r"(backbone\..+)", r"\1"),
    ),
    {"transforms": {"resize": "opencv"}, "model": {"p7_relu": False, "box_limits": "both"}},
)

YHENON = Source(
    "yhenon/pytorch-retinanet",
    "classificationModel.",
    TRACKED,
    (
        (rf"fpn\.P([345])_1\.{LEAF}", _pyramid("laterals")),
        (rf"fpn\.P([345])_2\.{LEAF}", _pyramid("outputs")),
        (rf"fpn\.P6\.{LEAF}", r"pyramid.p6.\1"),
        (rf"fpn\.P7_2\.{LEAF}", r"pyramid.p7.\1"),
        (rf"(classification|regression)Model\.output\.{LEAF}", lambda m: f"{_head(m)}.output.{m[2]}"),
        (rf"(classification|regression)Model\.conv(\d)\.{LEAF}", lambda m: f"{_head(m)}.conv{int(m[2]) - 1}.{m[3]}"),
        (r"((?:conv1|bn1|layer[1-4])\..+)", r"backbone.\1"),
    ),
    {
        "transforms": {"short_side": 608, "long_side": 1024},
        "anchors": {"offset": 0.5},
        "model": {"box_stds": [0.1, 0.1, 0.2, 0.2], "box_limits": "none"},
        "postprocess": {"candidates_per_level": None, "max_detections": None, "min_size": None},
    },
)

SOURCES = (TORCHVISION, DETECTRON2, MMDETECTION, YHENON)


def recognise(state: Mapping[str, Tensor]) -> Source:
    """Return the project of a state dictionary.

    Raises:
        ValueError: when it is none of SOURCES.
    """
    for source in SOURCES:
        if any(name.startswith(source.mark) for name in state):
            return source
    first = ", ".join(list(state)[:3])
    raise ValueError(
        f"the names ({first}, ..) are those of no known RetinaNet; expected one of "
        f"{', '.join(source.name for source in SOURCES)}"
    )
