"""Post-processing: from predictions to detections (paper, section 4.1, "Inference").

Score threshold, top-k of each level, decoding, clipping, class-wise non-maximum suppression, top-k of the image. Logits
are compared with the logit of the threshold, so no probability is computed for rejected candidates; the maps are read
once, without permuting them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from retinanet.anchors.boxes import MAX_LOG_RATIO, clip_boxes, decode_boxes
from retinanet.anchors.grid import Grid
from retinanet.network.predictions import Predictions

# Block size of the two-stage top-k: on a CPU 64 to 256 are equally fast within 10 %.
BLOCK = 128
# NMS first tries this many times max_detections boxes: mostly enough, for random and for trained heads, and NMS is
# quadratic in the number of boxes.
TRIED_FIRST = 4


# Limits of dw and dh. MMDetection has both, yhenon's code none.
BOX_LIMITS = {"upper": (None, MAX_LOG_RATIO), "both": (-MAX_LOG_RATIO, MAX_LOG_RATIO), "none": (None, None)}


class Detections(NamedTuple):
    """The detections of one image, best first.

    Attributes:
        boxes: [D, 4] float32 px.
        scores: [D] float32 in [0, 1].
        labels: [D] int64 in 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Candidates(NamedTuple):
    """The top R candidates of one level on every image; the last may be below the threshold.

    Attributes:
        values: [N, R] logits, or probabilities in the softmax form.
        rows: [N, R] indices of anchors within this level.
        labels: [N, R].
        codes: [N, R, 4] float32.
        num_anchors: of this level.
    """

    values: Tensor
    rows: Tensor
    labels: Tensor
    codes: Tensor
    num_anchors: int


class Postprocess:
    """Post-processing with the parameters of sections `postprocess`, `model` (the box code) and `loss`.

    Its scores are raw. Who joins them, Detector, divides their logits by `temperature` afterwards: scores that become
    equal in float32 then change neither what is suppressed nor the order.
    """

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
        temperature: float | None = None,
        box_means: Sequence[float] = (0, 0, 0, 0),
        box_stds: Sequence[float] = (1, 1, 1, 1),
        box_limits: str = "upper",
    ) -> None:
        self.grid, self.num_classes = grid, num_classes
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level
        self.nms_iou, self.max_detections, self.min_size = nms_iou, max_detections, min_size
        self.softmax, self.temperature = softmax, temperature
        low, high = BOX_LIMITS[box_limits]
        self.decode = partial(decode_boxes, means=box_means, stds=box_stds, min_log_ratio=low, max_log_ratio=high)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, image_sizes: Tensor, padded_size: tuple[int, int]) -> list[Detections]:
        """Detect on every image of a batch.

        A NaN logit is no candidate, but may displace one in the top-k.

        Args:
            image_sizes: [N, 2] height and width of the images without padding, px.
            padded_size: height and width of the batch, px.

        Returns:
            N detections in the network's frame; equal scores are ordered as on the maps [C*K, H, W].
        """
        anchors = self.grid.anchors(padded_size, predictions.class_logits[0].device)
        if self.candidates_per_level is not None:
            return self._detect(predictions, anchors, image_sizes)
        found: list[Detections] = []  # the number of candidates differs between images
        for i in range(image_sizes.shape[0]):
            alone = Predictions(*([level[i : i + 1] for level in maps] for maps in predictions))
            found += self._detect(alone, anchors, image_sizes[i : i + 1])
        return found

    def _detect(self, predictions: Predictions, anchors: Tensor, image_sizes: Tensor) -> list[Detections]:
        """Detect on images with R candidates each, some below the threshold."""
        levels = [self._candidates(*level) for level in zip(*predictions, strict=True)]
        firsts = [0, *accumulate(level.num_anchors for level in levels)]
        values = torch.cat([level.values for level in levels], dim=1)  # [N, R]
        labels = torch.cat([level.labels for level in levels], dim=1)
        codes = torch.cat([level.codes for level in levels], dim=1)
        rows = torch.cat([level.rows + first for level, first in zip(levels, firsts, strict=False)], dim=1)
        boxes = clip_boxes(self.decode(codes, anchors[rows]), image_sizes[:, None])  # [N, R, 4]
        chosen = values > self._threshold()
        if self.min_size is not None:
            chosen &= ((boxes[..., 2:] - boxes[..., :2]) > self.min_size).all(dim=-1)
        scores = values.float() if self.softmax else values.float().sigmoid()
        order = torch.where(chosen, scores, -1.0).argsort(dim=1, descending=True, stable=True)
        counts = chosen.sum(dim=1).tolist()  # (sync point)
        best_first = [indices[:count] for indices, count in zip(order.unbind(), counts, strict=True)]
        return [self._suppress(boxes[i, best], scores[i, best], labels[i, best]) for i, best in enumerate(best_first)]

    def _candidates(self, logits: Tensor, deltas: Tensor) -> Candidates:
        """The top-k candidates of one level, from its maps [N, C*K, H, W] and [N, C*4, H, W]."""
        values = self._class_values(logits)
        num_channels, num_cells = values.shape[1], values.shape[2] * values.shape[3]
        cells_first = values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()
        flat = (values.permute(0, 2, 3, 1) if cells_first else values).flatten(1)  # in memory order
        if self.candidates_per_level is None:
            index = torch.nonzero(flat[0] > self._threshold())[None, :, 0]
        else:
            index = top_indices(flat, self.candidates_per_level)
        best = flat.gather(1, index)
        if cells_first:
            cell, channel = split_index(index, num_channels)
            index = channel * num_cells + cell
        index, order = index.sort(dim=1)  # the same order for both layouts and for equal scores
        best = best.gather(1, order)
        channel, cell = split_index(index, num_cells)
        anchor, label = split_index(channel, self.num_classes)
        image = torch.arange(len(logits), device=logits.device)[:, None]
        codes = deltas.unflatten(1, (-1, 4)).flatten(3)[image, anchor, :, cell].float()  # [N, R, 4]
        per_cell = self.grid.anchors_per_cell
        return Candidates(best, cell * per_cell + anchor, label, codes, num_anchors=num_cells * per_cell)

    def _suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Non-maximum suppression of one image, whose boxes are ordered best first.

        Whether a box is kept depends only on better boxes. So the best boxes are tried alone, which is often enough.
        """
        most = len(scores) if self.max_detections is None else self.max_detections
        keep = torch.zeros(0, dtype=torch.int64, device=scores.device)
        for count in (TRIED_FIRST * most, len(scores)):
            # batched_nms offsets the boxes of every class: in float64, so that large offsets do not round them.
            tried = boxes[:count].double(), scores[:count].double(), labels[:count]
            keep = batched_nms(*tried, self.nms_iou)[:most]
            if len(keep) == most or count >= len(scores):
                break
        return Detections(boxes[keep], scores[keep], labels[keep])

    def _threshold(self) -> float:
        return self.score_threshold if self.softmax else logit(self.score_threshold)

    def _class_values(self, logits: Tensor) -> Tensor:
        """The map [N, C*K, H, W] of logits, or of probabilities without the background's in the softmax form."""
        if not self.softmax:
            return logits
        by_class = logits.unflatten(1, (-1, self.num_classes + 1)).float()  # [N, C, K+1, H, W]
        probabilities: Tensor = by_class.softmax(dim=2)[:, :, 1:]
        return probabilities.flatten(1, 2)


def top_indices(values: Tensor, count: int) -> Tensor:
    """Two-stage top-k: indices of the largest values of every row [N, S]: [N, count], or [N, S] if S is smaller.

    The top `count` values lie in the `count` blocks with the largest maxima, so all values are read once, and only
    those blocks again. It does not synchronise with an accelerator.
    """
    num_blocks = values.shape[1] // BLOCK
    if num_blocks <= count:
        return values.topk(min(count, values.shape[1]), dim=1, sorted=False).indices
    whole = num_blocks * BLOCK
    blocks = values[:, :whole].unflatten(1, (num_blocks, BLOCK))
    best = blocks.amax(dim=2).topk(count, dim=1, sorted=False).indices  # [N, count]
    inside = torch.arange(BLOCK, device=values.device)
    candidates = (best[:, :, None] * BLOCK + inside).flatten(1)
    rest = torch.arange(whole, values.shape[1], device=values.device).expand(len(values), -1)
    seen = blocks.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    top = torch.cat([seen, values[:, whole:]], dim=1).topk(count, dim=1, sorted=False).indices
    return torch.cat([candidates, rest], dim=1).gather(1, top)


def split_index(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Flat indices of a matrix with rows of that size to row and column."""
    first = index // size
    return first, index - first * size


def logit(probability: float) -> float:
    """The logit of a probability; infinite for 0 and 1."""
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))


def rescale_detections(detections: Detections, factor_y: float, factor_x: float) -> Detections:
    """Scale detections from the network's frame to that of the original image."""
    factors = detections.boxes.new_tensor([factor_x, factor_y, factor_x, factor_y])
    return detections._replace(boxes=detections.boxes * factors)
