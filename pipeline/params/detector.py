"""Parameters of the detector: sections anchors, matcher, loss, model, postprocess."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import Count, CountOrZero, Finite, Fraction, NotNegative, Positive, Section

FourNumbers = Annotated[list[Finite], Field(min_length=4, max_length=4)]
FourPositive = Annotated[list[Positive], Field(min_length=4, max_length=4)]
NUM_LEVELS = 5  # P3..P7


class Anchors(Section):
    """The anchor boxes."""

    mode: Literal["fixed", "fitted"]
    "fixed: the numbers below. fitted: anchor_stats fits sizes and ratios to the training boxes, as many per cell."
    base_scale: Positive
    "Side of the smallest anchor of a level, in strides of that level."
    scales_per_octave: Count | None
    "Sizes per level: base_scale * stride * 2^(i / scales_per_octave)."
    sizes: list[list[Positive]] | None
    "Sides in px, one list per level, instead of base_scale and scales_per_octave."
    aspect_ratios: Annotated[list[Positive], Field(min_length=1)]
    "Height / width."
    offset: Fraction
    "Centre of the first anchor, in strides."
    rounded: bool
    "Whole-pixel sizes and corners."
    strides_from_image: bool
    "Stride = padded side // map side instead of 2^level."

    def check(self) -> list[str]:
        """One list of sizes per level, of one length: the heads are shared over the levels."""
        if self.sizes is None:
            return []
        if len(self.sizes) != NUM_LEVELS:
            return [
                f"sizes has {len(self.sizes)} entries, but the pyramid has 5 levels (P3..P7); give one list per level"
            ]
        lengths = {len(level) for level in self.sizes}
        return (
            []
            if len(lengths) == 1 and 0 not in lengths
            else ["sizes must have equally many sides on each level, at least one"]
        )


class Matcher(Section):
    """Target assignment: which anchors are matched with which ground-truth boxes."""

    foreground_iou: Fraction
    background_iou: Fraction
    low_quality: Literal["truth", "anchor", "none"]

    def check(self) -> list[str]:
        """No anchor may be both foreground and background."""
        if self.background_iou > self.foreground_iou:
            return [f"background_iou is {self.background_iou}, above foreground_iou {self.foreground_iou}; lower it"]
        return ["foreground_iou is 0: every anchor would be foreground"] if self.foreground_iou == 0 else []


class Loss(Section):
    """The class loss and the box loss."""

    class_loss: Literal["sigmoid_focal", "softmax_focal"]
    alpha: Fraction | list[NotNegative] | None
    "Foreground weight; a list: one per class (softmax_focal: background first)."
    gamma: NotNegative
    box_loss: Literal["smooth_l1", "l1", "giou", "ciou"]
    beta: Positive
    "Where smooth_l1 becomes linear, in units of the box code."
    box_weight: NotNegative
    normaliser: Literal["batch", "image", "batch_of_images"]

    def check(self) -> list[str]:
        """The sigmoid form weighs background by 1 - alpha, which may not be negative."""
        if self.class_loss == "sigmoid_focal" and isinstance(self.alpha, list) and max(self.alpha, default=0) > 1:
            return [f"alpha is {self.alpha}, with sigmoid_focal no entry may be above 1"]
        return []

    def check_classes(self, num_classes: int, whose: str) -> list[str]:
        """A list of alphas must fit the classes."""
        expected = num_classes + (self.class_loss == "softmax_focal")
        if not isinstance(self.alpha, list) or len(self.alpha) == expected:
            return []
        background = ", first the background" if self.class_loss == "softmax_focal" else ""
        return [f"loss.alpha has {len(self.alpha)} entries, expected {expected} for {whose}{background}"]


_COCO = {"backbone": "resnet50", "fpn_channels": 256, "head_channels": 256, "head_depth": 4}
COCO_NETWORKS: dict[str, dict[str, object]] = {
    "coco": {**_COCO, "p6_from": "c5", "head_norm": "group"},
    "coco_v1": {**_COCO, "p6_from": "p5", "head_norm": "none"},
}
"""Settings of torchvision's RetinaNets trained on COCO, so that a mistake is found before the download."""


class Model(Section):
    """The network."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"]
    weights: str | None
    "null; imagenet; coco or coco_v1; a file or URL of a ResNet or a RetinaNet; models:/, runs:/ or run:DIGEST."
    norm: Literal["frozen_batch", "group", "sync_batch", "batch"]
    frozen_stages: Annotated[int, Field(ge=0, le=5)]
    stride_in_1x1: bool
    "A stage of ResNet-50 and deeper halves the map in its first 1x1 convolution, as Caffe's weights need."
    fpn_channels: Count
    p6_from: Literal["c5", "p5"]
    p7_relu: bool
    "A ReLU between P6 and P7, as in the paper; MMDetection has none."
    head_channels: Count
    head_depth: CountOrZero
    head_norm: Literal["none", "group"]
    prior: Annotated[float, Field(gt=0, lt=1)]
    box_means: FourNumbers
    box_stds: FourPositive

    def check(self) -> list[str]:
        """Frozen layers need pretrained weights, and groups must divide the channels."""
        complaints = []
        if self.weights is None and self.norm == "frozen_batch":
            complaints.append(
                "norm is frozen_batch, but weights is null: its statistics come from pretrained weights; use group"
            )
        if self.weights in ("imagenet", *COCO_NETWORKS) and self.norm == "group":
            complaints.append(
                f"weights is {self.weights}, but norm is group: torchvision's weights were trained with batch norm; "
                "use frozen_batch"
            )
        needed = COCO_NETWORKS.get(str(self.weights), {})
        wrong = [f"{key}: {value}" for key, value in needed.items() if getattr(self, key) != value]
        if wrong:
            complaints.append(f"weights is {self.weights}, a network with other settings; set {', '.join(wrong)}")
        if self.weights is None and self.frozen_stages > 0:
            complaints.append(
                f"frozen_stages is {self.frozen_stages}, but weights is null: random weights would be frozen; use 0"
            )
        if self.head_norm == "group" and self.head_channels % 8:
            complaints.append(
                f"head_channels is {self.head_channels}, with head_norm: group it must be a multiple of 8"
            )
        return complaints


class Postprocess(Section):
    """Post-processing: from scored boxes to detections."""

    score_threshold: Fraction
    "Lowest raw score of a detection (exclusive), also where scores are calibrated."
    candidates_per_level: Count | None
    nms_iou: Fraction
    max_detections: Count | None
    min_size: NotNegative | None
    "Px: boxes whose clipped width or height is not above this are dropped."
    calibrate: bool
    "Divide the logits of scores by the temperature fitted on val and stored with the detector; changes no order."
