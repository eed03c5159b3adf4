"""The criterion: from predictions and ground truth to the two losses (paper, section 4.1, "Inference and Training").

Three steps, because the normaliser belongs to the global batch: `assign` needs only the ground truth and the size of
the batch, `normaliser_share` is summed over all micro-batches of all workers, and the losses of each micro-batch are
then divided by that sum. Every anchor of every image counts; those in the padding are background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

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
from retinanet.losses.maps import overwrite
from retinanet.network.predictions import AnchorLocations, LevelLocations, Predictions, locate_anchors

NORMALISERS = ("batch", "image", "batch_of_images")


class ImageGroundTruth(NamedTuple):
    """The ground truth of one image.

    Attributes:
        boxes: [M, 4] float32 px in the network's frame, of positive area.
        labels: [M] int64 in 0..K-1.
    """

    boxes: Tensor
    labels: Tensor


class Assignment(NamedTuple):
    """The training target of every anchor of a batch; all other anchors are background.

    Attributes:
        num_foreground: [N] int64 foreground anchors per image.
        foreground: F anchors.
        anchors: [F, 4] px, of the foreground.
        truth_boxes: [F, 4] px, the boxes of the foreground.
        truth_labels: [F] in 0..K-1.
        ignored: anchors that are neither foreground nor background.
    """

    num_foreground: Tensor
    foreground: AnchorLocations
    anchors: Tensor
    truth_boxes: Tensor
    truth_labels: Tensor
    ignored: AnchorLocations

    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order of `map`."""
        found: list[Tensor] = []
        self.map(lambda values: found.append(values) or values)  # type: ignore[func-returns-value]
        return found

    def map(self, function: Callable[[Tensor], Tensor]) -> Assignment:
        """Apply a function to every tensor, such as a copy to a device."""
        return Assignment(
            num_foreground=function(self.num_foreground),
            foreground=self.foreground.map(function),
            anchors=function(self.anchors),
            truth_boxes=function(self.truth_boxes),
            truth_labels=function(self.truth_labels),
            ignored=self.ignored.map(function),
        )


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
        self.match = partial(
            match_anchors, foreground_iou=foreground_iou, background_iou=background_iou, low_quality=low_quality
        )
        self.class_loss, self.gamma = class_loss, gamma
        self.class_alpha, self.class_factor = class_weighting(alpha, num_classes, class_loss)
        self.box_loss, self.beta, self.box_weight = box_loss, beta, box_weight
        self.normalised_by = normaliser
        self.encode = partial(encode_boxes, means=box_means, stds=box_stds)
        self.decode = partial(decode_boxes, means=box_means, stds=box_stds)

    def assign(self, truths: Sequence[ImageGroundTruth], padded_size: tuple[int, int]) -> Assignment:
        """Target assignment: match the anchors of every image of a batch with its ground truth.

        The numbers of matches are read, for which a GPU must be waited for: give it ground truth on the CPU.

        Args:
            truths: N images; those without boxes have M = 0.
            padded_size: height and width of the batch, px.
        """
        matches = self.match([truth.boxes for truth in truths], self.grid, padded_size)
        num_anchors = sum(self.grid.anchors_per_level(padded_size))
        bounds = torch.arange(len(truths) + 1, device=matches.foreground.device) * num_anchors
        foreground, order = self._locate(matches.foreground, padded_size)
        truth = matches.truth[order]
        return Assignment(
            num_foreground=torch.searchsorted(matches.foreground, bounds).diff(),
            foreground=foreground,
            anchors=self.grid.anchors(padded_size, truth.device)[foreground.anchor],
            truth_boxes=torch.cat([truth.boxes for truth in truths])[truth],
            truth_labels=torch.cat([truth.labels for truth in truths])[truth],
            ignored=self._locate(matches.ignored, padded_size)[0],
        )

    def normaliser_share(self, assignment: Assignment) -> Tensor:
        """The share of a micro-batch in the normaliser of the global batch: a float64 scalar."""
        counts = assignment.num_foreground.double()
        if self.normalised_by == "batch":
            return counts.sum()
        return counts.clamp(min=1).sum() if self.normalised_by == "batch_of_images" else torch.ones_like(counts).sum()

    def image_weights(self, assignment: Assignment, normaliser: Tensor) -> Tensor:
        """[N] float32 factor on the losses of each image, given the normaliser (at least 1) of the global batch."""
        counts = assignment.num_foreground.double()
        weights = torch.ones_like(counts) / normaliser.clamp(min=1)
        return (weights / counts.clamp(min=1) if self.normalised_by == "image" else weights).float()

    def __call__(
        self, predictions: Predictions, assignment: Assignment, normaliser: Tensor, *, factor: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a micro-batch; they add up to the losses of the global batch.

        Args:
            normaliser: the sum of `normaliser_share` over all micro-batches of all workers.
            factor: on all losses. Here it is one on the weights of the images; on the losses themselves it would cost
                the backward pass a multiplication of all gradients of the logits.

        Returns:
            loss_cls and loss_box, scalars; an image without boxes adds to loss_cls only.
        """
        weights = self.image_weights(assignment, normaliser) * factor
        return {
            "loss_cls": self._class_loss(predictions, assignment, weights * self.class_factor),
            "loss_box": self._box_loss(predictions, assignment, weights) * self.box_weight,
        }

    def _class_loss(self, predictions: Predictions, assignment: Assignment, weights: Tensor) -> Tensor:
        """Sum over the levels of the focal loss on the heads' own maps."""
        level_loss = self._sigmoid_level if self.class_loss == "sigmoid_focal" else self._softmax_level
        foreground, ignored = assignment.foreground, assignment.ignored
        targets = zip(
            foreground.levels(), assignment.truth_labels.split(foreground.counts), ignored.levels(), strict=True
        )
        losses = [
            level_loss(logits, *target, weights)
            for logits, target in zip(predictions.class_logits, targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def _sigmoid_level(
        self, logits: Tensor, foreground: LevelLocations, labels: Tensor, ignored: LevelLocations, weights: Tensor
    ) -> Tensor:
        channel = foreground.cell_anchor * self.num_classes + labels
        return sparse_sigmoid_focal_loss(
            logits,
            (foreground.image, channel, foreground.y, foreground.x),
            (ignored.image, ignored.cell_anchor, ignored.y, ignored.x),
            class_alpha=self._class_alpha_on(logits.device),
            gamma=self.gamma,
            image_weights=weights,
            counted=(foreground.counted, ignored.counted),
        )

    def _softmax_level(
        self, logits: Tensor, foreground: LevelLocations, labels: Tensor, ignored: LevelLocations, weights: Tensor
    ) -> Tensor:
        by_anchor = logits.unflatten(1, (-1, self.num_classes + 1))  # [N, C, K+1, H, W]
        by_anchor = by_anchor.permute(0, 1, 3, 4, 2)  # [N, C, H, W, K+1]
        classes = torch.zeros(by_anchor.shape[:-1], dtype=torch.int64, device=logits.device)
        overwrite(classes, foreground[:4], labels + 1, foreground.counted)
        anchor_weights = weights[:, None, None, None].expand(classes.shape).clone()
        overwrite(anchor_weights, ignored[:4], 0, ignored.counted)
        class_weights = self._class_alpha_on(logits.device)
        losses = softmax_focal_loss(by_anchor, classes, class_weights=class_weights, gamma=self.gamma)
        return (losses * anchor_weights).sum()

    def _box_loss(self, predictions: Predictions, assignment: Assignment, weights: Tensor) -> Tensor:
        """Weighted sum over the foreground anchors, level by level, in float32 whatever the heads' type."""
        dtype = torch.promote_types(predictions.box_deltas[0].dtype, torch.float32)
        # Index every level even without foreground, so that DDP sees a gradient for every parameter.
        levels = [
            maps.unflatten(1, (-1, 4))[on.image, on.cell_anchor, :, on.y, on.x].to(dtype)  # [R, 4] of [N, C, 4, H, W]
            for maps, on in zip(predictions.box_deltas, assignment.foreground.levels(), strict=True)
        ]
        deltas = torch.cat(levels)  # [F, 4]
        anchors, truths = assignment.anchors.to(dtype), assignment.truth_boxes.to(dtype)
        if self.box_loss in BOX_LOSSES:
            losses = BOX_LOSSES[self.box_loss](self.decode(deltas, anchors), truths)
        else:
            losses = CODE_LOSSES[self.box_loss](deltas, self.encode(truths, anchors), beta=self.beta)
        losses = losses * weights[assignment.foreground.image].to(dtype)
        counted = assignment.foreground.counted
        return losses.sum() if counted is None else (losses * counted).sum()

    def _locate(self, index: Tensor, padded_size: tuple[int, int]) -> tuple[AnchorLocations, Tensor]:
        """Locate anchors by their flat indices i * A + a in a batch; see locate_anchors."""
        num_anchors = sum(self.grid.anchors_per_level(padded_size))
        return locate_anchors(
            torch.div(index, num_anchors, rounding_mode="floor"),
            index % num_anchors,
            map_sizes=self.grid.map_sizes(padded_size),
            anchors_per_cell=self.grid.anchors_per_cell,
        )

    def _class_alpha_on(self, device: torch.device) -> Tensor:
        """The class weights on a device, copied there once."""
        if self.class_alpha.device != device:
            self.class_alpha = self.class_alpha.to(device)
        return self.class_alpha


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
            f"loss.alpha has {len(alpha)} entries, expected {num_classes + softmax}: "
            f"{'first the background, then ' if softmax else ''}one for each of {num_classes} classes"
        )
    return torch.tensor([float(value) for value in alpha]), 1.0
