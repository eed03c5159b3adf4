"""From predictions to detections (paper, section 4.1, "Inference").

Scores above a threshold, the best candidates of each level, decoding, clipping, non-maximum suppression class by
class, the best detections of an image. Logits are compared with the threshold's own logit, so no probability is
computed for what is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from retinanet.anchors import Grid
from retinanet.boxes import clip_boxes, decode_boxes
from retinanet.predictions import Predictions


class Detections(NamedTuple):
    """What was found on one image, best first.

    Attributes:
        boxes: [D, 4] float32 px.
        scores: [D] float32 in (0, 1].
        labels: [D] int64 in 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Postprocess:
    """Predictions to detections. Parameters as in sections `postprocess`, `model` (the box code) and `loss`."""

    def __init__(
        self,
        grid: Grid,
        num_classes: int,
        *,
        score_threshold: float = 0.05,
        candidates_per_level: int | None = 1000,
        nms_iou: float = 0.5,
        max_detections: int | None = 100,
        min_size: float | None = 0.0,
        softmax: bool = False,
        box_means: Sequence[float] = (0, 0, 0, 0),
        box_stds: Sequence[float] = (1, 1, 1, 1),
    ) -> None:
        self.grid, self.num_classes = grid, num_classes
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level
        self.nms_iou, self.max_detections, self.min_size = nms_iou, max_detections, min_size
        self.softmax = softmax
        self.code: dict[str, Any] = {"means": box_means, "stds": box_stds}

    @torch.no_grad()
    def __call__(self, predictions: Predictions, image_sizes: Tensor, padded_size: tuple[int, int]) -> list[Detections]:
        """Detect on every image of a batch.

        Args:
            image_sizes: [N, 2] height and width in px of the images without their padding.
            padded_size: height and width of the batch.

        Returns:
            N detections in the network's frame.
        """
        anchors = self.grid.anchors(padded_size, predictions.class_logits[0].device)
        levels = anchors.split(self.grid.anchors_per_level(padded_size))
        return [
            self._detect(
                [(logits[i], deltas[i]) for logits, deltas in zip(*predictions, strict=True)], levels, image_sizes[i]
            )
            for i in range(image_sizes.shape[0])
        ]

    def _detect(self, maps: list[tuple[Tensor, Tensor]], anchors: Sequence[Tensor], image_size: Tensor) -> Detections:
        """Detect on one image, from its maps [C*K, H, W] and [C*4, H, W] per level."""
        found = [self._candidates(*level, level_anchors) for level, level_anchors in zip(maps, anchors, strict=True)]
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        boxes = clip_boxes(boxes, image_size)
        if self.min_size is not None:
            large = ((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(dim=1)
            boxes, scores, labels = boxes[large], scores[large], labels[large]
        # It moves every class to a place of its own: in float64, so that boxes far out are not rounded.
        keep = batched_nms(boxes.double(), scores.double(), labels, self.nms_iou)[: self.max_detections]  # best first
        return Detections(boxes[keep], scores[keep], labels[keep])

    def _candidates(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of one level of one image: [D, 4], [D], [D]."""
        values = self._class_values(logits)  # [C, K, H, W]
        threshold = self.score_threshold if self.softmax else logit(self.score_threshold)
        anchor, label, y, x = torch.nonzero(values > threshold, as_tuple=True)
        best = values[anchor, label, y, x].float()
        if self.candidates_per_level is not None and best.shape[0] > self.candidates_per_level:
            best, top = best.topk(self.candidates_per_level)
            anchor, label, y, x = anchor[top], label[top], y[top], x[top]
        codes = deltas.unflatten(0, (-1, 4))[anchor, :, y, x].float()  # [D, 4]
        row = (y * logits.shape[-1] + x) * self.grid.anchors_per_cell + anchor
        boxes = decode_boxes(codes, anchors[row], **self.code)
        return boxes, best if self.softmax else best.sigmoid(), label

    def _class_values(self, logits: Tensor) -> Tensor:
        """[C*K, H, W] as [C, K, H, W] logits, or probabilities without the background in the softmax form."""
        by_class: Tensor = logits.unflatten(0, (-1, self.num_classes + self.softmax))
        return by_class.float().softmax(dim=1)[:, 1:] if self.softmax else by_class


def logit(probability: float) -> float:
    """The logit of a probability; those of 0 and 1 are infinite."""
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))


def rescale_detections(detections: Detections, factor_y: float, factor_x: float) -> Detections:
    """Detections in the network's frame to those in the original image's: boxes times the factors."""
    factors = detections.boxes.new_tensor([factor_x, factor_y, factor_x, factor_y])
    return detections._replace(boxes=detections.boxes * factors)
