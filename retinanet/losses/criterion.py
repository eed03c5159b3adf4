"""The criterion: from predictions and truths to the two losses (paper, section 4.1, "Inference and Training").

It works in three steps, because the normaliser belongs to the global batch: `assign` needs the truths and the size of
the batch only, the masses of all parts of the batch are summed (over workers and accumulation steps), and the losses
of each part are then divided by that sum. Every anchor of every image counts, padding included (as background).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retinanet.anchors.boxes import decode_boxes, encode_boxes
from retinanet.anchors.grid import Grid
from retinanet.anchors.matcher import match_anchors
from retinanet.losses import (
    BOX_LOSSES,
    CODE_LOSSES,
    softmax_focal_loss,
    sparse_sigmoid_focal_loss,
)
from retinanet.network.predictions import Places, Predictions, places_on_level

NORMALISERS = ("batch", "image", "batch_of_images")


class Truths(NamedTuple):
    """The ground truth of one image.

    Attributes:
        boxes: [M, 4] float32 px in the network's frame, of positive area.
        labels: [M] int64 in 0..K-1.
    """

    boxes: Tensor
    labels: Tensor


class Assignment(NamedTuple):
    """What every anchor of a batch answers for.

    Attributes:
        image_size: padded height and width of the batch, px.
        num_foreground: [N] int64 foreground anchors per image.
        foreground: [F] image and [F] anchor index (0..A-1).
        truth_boxes: [F, 4] px.
        truth_labels: [F] in 0..K-1.
        ignored: [I] image and [I] anchor index.
    """

    image_size: tuple[int, int]
    num_foreground: Tensor
    foreground: tuple[Tensor, Tensor]
    truth_boxes: Tensor
    truth_labels: Tensor
    ignored: tuple[Tensor, Tensor]


class Criterion:
    """Class and box loss of a batch. Parameters as in sections `matcher`, `loss` and `model` (the box code)."""

    def __init__(
        self,
        grid: Grid,
        num_classes: int,
        *,
        foreground_iou: float = 0.5,
        background_iou: float = 0.4,
        low_quality: str = "truth",
        class_loss: str = "sigmoid_focal",
        alpha: float | Sequence[float] | None = 0.25,
        gamma: float = 2.0,
        box_loss: str = "smooth_l1",
        beta: float = 1 / 9,
        box_weight: float = 1.0,
        normaliser: str = "batch",
        box_means: Sequence[float] = (0, 0, 0, 0),
        box_stds: Sequence[float] = (1, 1, 1, 1),
    ) -> None:
        if normaliser not in NORMALISERS:
            raise ValueError(f"loss.normaliser is {normaliser!r}, expected one of {', '.join(NORMALISERS)}")
        if box_loss not in CODE_LOSSES | BOX_LOSSES:
            raise ValueError(f"loss.box_loss is {box_loss!r}, expected one of {', '.join(CODE_LOSSES | BOX_LOSSES)}")
        if class_loss not in ("sigmoid_focal", "softmax_focal"):
            raise ValueError(f"loss.class_loss is {class_loss!r}, expected sigmoid_focal or softmax_focal")
        self.grid, self.num_classes = grid, num_classes
        self.matching = {"foreground_iou": foreground_iou, "background_iou": background_iou, "low_quality": low_quality}
        self.class_loss, self.gamma = class_loss, gamma
        self.class_alpha, self.class_factor = class_weighting(alpha, num_classes, class_loss)
        self.box_loss, self.beta, self.box_weight = box_loss, beta, box_weight
        self.normaliser = normaliser
        self.code: dict[str, Any] = {"means": box_means, "stds": box_stds}

    def assign(self, truths: Sequence[Truths], image_size: tuple[int, int]) -> Assignment:
        """Match the anchors of every image of a batch.

        Args:
            truths: N images; those without boxes have M = 0.
            image_size: padded height and width of the batch, px.
        """
        matches = match_anchors([truth.boxes for truth in truths], self.grid, image_size, **self.matching)  # type: ignore[arg-type]
        num_anchors = sum(self.grid.anchors_per_level(image_size))
        bounds = torch.arange(len(truths) + 1, device=matches.foreground.device) * num_anchors
        return Assignment(
            image_size=image_size,
            num_foreground=torch.searchsorted(matches.foreground, bounds).diff(),
            foreground=_image_and_anchor(matches.foreground, num_anchors),
            truth_boxes=torch.cat([truth.boxes for truth in truths])[matches.truth],
            truth_labels=torch.cat([truth.labels for truth in truths])[matches.truth],
            ignored=_image_and_anchor(matches.ignored, num_anchors),
        )

    def mass(self, assignment: Assignment) -> Tensor:
        """What this part of a batch adds to the normaliser of the global batch: a float64 scalar."""
        counts = assignment.num_foreground.double()
        if self.normaliser == "batch":
            return counts.sum()
        return counts.clamp(min=1).sum() if self.normaliser == "batch_of_images" else counts.new_tensor(len(counts))

    def image_weights(self, assignment: Assignment, total_mass: Tensor) -> Tensor:
        """[N] float32 factor on the losses of each image, given the mass of the global batch (at least 1)."""
        counts = assignment.num_foreground.double()
        weights = torch.ones_like(counts) / total_mass.clamp(min=1)
        return (weights / counts.clamp(min=1) if self.normaliser == "image" else weights).float()

    def __call__(self, predictions: Predictions, assignment: Assignment, total_mass: Tensor) -> dict[str, Tensor]:
        """The losses of a part of a batch; those of all parts add up to the losses of the batch.

        Args:
            total_mass: the sum of `mass` over all parts of the global batch.

        Returns:
            loss_cls and loss_box, scalars; an image without boxes adds to loss_cls only.
        """
        weights = self.image_weights(assignment, total_mass)
        foreground = self._places(assignment.foreground, assignment.image_size)
        return {
            "loss_cls": self._class_loss(predictions, assignment, foreground, weights),
            "loss_box": self._box_loss(predictions, assignment, foreground, weights) * self.box_weight,
        }

    def _class_loss(
        self, predictions: Predictions, assignment: Assignment, foreground: list[Places], weights: Tensor
    ) -> Tensor:
        """Sum over the levels of the focal loss on the heads' own maps."""
        level_loss = self._sigmoid_level if self.class_loss == "sigmoid_focal" else self._softmax_level
        ignored = self._places(assignment.ignored, assignment.image_size)
        levels = zip(predictions.class_logits, foreground, ignored, strict=True)
        losses = [level_loss(logits, at, assignment.truth_labels[at.rows], off, weights) for logits, at, off in levels]
        return torch.stack(losses).sum() * self.class_factor

    def _sigmoid_level(self, logits: Tensor, at: Places, labels: Tensor, ignored: Places, weights: Tensor) -> Tensor:
        channel = at.cell_anchor * self.num_classes + labels
        return sparse_sigmoid_focal_loss(
            logits,
            (at.image, channel, at.y, at.x),
            (ignored.image, ignored.cell_anchor, ignored.y, ignored.x),
            class_alpha=self.class_alpha,
            gamma=self.gamma,
            image_weights=weights,
        )

    def _softmax_level(self, logits: Tensor, at: Places, labels: Tensor, ignored: Places, weights: Tensor) -> Tensor:
        by_anchor = logits.unflatten(1, (-1, self.num_classes + 1))  # [N, C, K+1, H, W]
        by_anchor = by_anchor.permute(0, 1, 3, 4, 2)  # [N, C, H, W, K+1]
        classes = torch.zeros(by_anchor.shape[:-1], dtype=torch.int64, device=logits.device)
        classes[at.image, at.cell_anchor, at.y, at.x] = labels + 1
        counted = weights[:, None, None, None].expand(classes.shape).clone()
        counted[ignored.image, ignored.cell_anchor, ignored.y, ignored.x] = 0
        losses = softmax_focal_loss(
            by_anchor, classes, class_weights=self.class_alpha.to(logits.device), gamma=self.gamma
        )
        return (losses * counted).sum()

    def _box_loss(
        self, predictions: Predictions, assignment: Assignment, foreground: list[Places], weights: Tensor
    ) -> Tensor:
        """Weighted sum over the foreground anchors, level by level, in float32 whatever the heads' type."""
        dtype = torch.promote_types(predictions.box_deltas[0].dtype, torch.float32)
        # Every level is asked, also for none: so each head has a gradient in every batch.
        deltas = torch.cat(
            [
                maps.unflatten(1, (-1, 4))[at.image, at.cell_anchor, :, at.y, at.x].to(
                    dtype
                )  # [R, 4] of [N, C, 4, H, W]
                for maps, at in zip(predictions.box_deltas, foreground, strict=True)
            ]
        )  # [F, 4]
        rows = torch.cat([at.rows for at in foreground])
        image, anchor = (index[rows] for index in assignment.foreground)
        anchors = self.grid.anchors(assignment.image_size, deltas.device)[anchor].to(dtype)
        truths = assignment.truth_boxes[rows].to(dtype)
        if self.box_loss in BOX_LOSSES:
            losses = BOX_LOSSES[self.box_loss](decode_boxes(deltas, anchors, **self.code), truths)
        else:
            losses = CODE_LOSSES[self.box_loss](deltas, encode_boxes(truths, anchors, **self.code), beta=self.beta)
        return (losses * weights[image].to(dtype)).sum()

    def _places(self, anchors: tuple[Tensor, Tensor], image_size: tuple[int, int]) -> list[Places]:
        """Where on each level's map some anchors (image and flat index) lie."""
        map_sizes = self.grid.map_sizes(image_size)
        return [
            places_on_level(*anchors, level=level, map_sizes=map_sizes, anchors_per_cell=self.grid.anchors_per_cell)
            for level in range(len(map_sizes))
        ]


def _image_and_anchor(places: Tensor, num_anchors: int) -> tuple[Tensor, Tensor]:
    """Places in a batch, i * A + a, to both."""
    return torch.div(places, num_anchors, rounding_mode="floor"), places % num_anchors


def class_weighting(alpha: float | Sequence[float] | None, num_classes: int, class_loss: str) -> tuple[Tensor, float]:
    """The alpha of every class as a tensor, and a factor on the whole class loss.

    Returns:
        sigmoid_focal: [K] weights of foreground; "no weight" is 1/2 for both sides, times 2.
        softmax_focal: [K+1] weights of background and classes: 1 - alpha and alpha, or a list, background first.

    Raises:
        ValueError: when a list has another length than the classes.
    """
    softmax = class_loss == "softmax_focal"
    if alpha is None:
        return (torch.ones(num_classes + 1), 1.0) if softmax else (torch.full((num_classes,), 0.5), 2.0)
    if isinstance(alpha, float | int):
        return torch.tensor([1.0 - alpha] * softmax + [float(alpha)] * num_classes), 1.0
    if len(alpha) != num_classes + softmax:
        raise ValueError(
            f"loss.alpha has {len(alpha)} entries, {num_classes + softmax} are needed: "
            f"one for each of {num_classes} classes{' and first the background' if softmax else ''}"
        )
    return torch.tensor([float(value) for value in alpha]), 1.0
