"""Post-processing thresholds, which cost no training: searched on what a detector finds before suppression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from pipeline.params.sweep import Thresholds
from retinanet.coco_eval import ImageDetections
from retinanet.coco_thresholds import average_precision_above
from retinanet.dataset import EvaluationBatches
from retinanet.detector import Detector
from retinanet.splits import Split

BOXES_TOGETHER = 1000  # torchvision's, on the CPU


def find_candidates(
    detector: Detector, split: Split, *, postprocess: Mapping[str, Any], lowest: float
) -> Iterator[tuple[int, ImageDetections]]:
    """Detect without suppression, image by image: of COCO's val, all candidates together are up to 25 million.

    Args:
        postprocess: section `postprocess`; all of it but the thresholds holds here too.
        lowest: the smallest score threshold that will be asked for.

    Yields:
        Each image's id, and what non-maximum suppression would judge: boxes [D, 4] float32 px of the picture, scores
        [D] float32, labels [D].
    """
    rest = {**postprocess, "score_threshold": lowest, "nms_iou": 1.0, "max_detections": None}
    detector.postprocess = detector.build_postprocess(**rest)
    batches = EvaluationBatches(split, detector.transforms)
    for image_id, found in detector.predict(batches[position] for position in range(len(batches))):
        yield image_id, (found.boxes.numpy(), found.scores.numpy(), found.labels.numpy())


def search_thresholds(
    candidates: Iterable[tuple[int, ImageDetections]],
    content: Mapping[str, Any],
    thresholds: Thresholds,
    *,
    max_detections: int | None,
) -> list[dict[str, float]]:
    """AP and AP50 under every pair of thresholds, best AP first.

    Each image's candidates are taken once; of them at most `max_detections` for each nms_iou are kept.

    Args:
        candidates: by image, as of find_candidates, which may yield them as they are found.
        content: the split, as its prepared file holds it.
    """
    # The best detections of a lower score threshold begin with those of a higher one.
    lowest = min(thresholds.score_threshold)
    kept: dict[float, dict[int, ImageDetections]] = {nms_iou: {} for nms_iou in thresholds.nms_iou}
    for image_id, found in candidates:
        each = suppress(found, thresholds.nms_iou, score_threshold=lowest, most=max_detections)
        for nms_iou, detections in zip(thresholds.nms_iou, each, strict=True):
            kept[nms_iou][image_id] = detections
    rows = []
    for nms_iou in thresholds.nms_iou:
        figures = average_precision_above(content, kept[nms_iou], thresholds.score_threshold)
        for score_threshold, metrics in zip(thresholds.score_threshold, figures, strict=True):
            row = {"nms_iou": nms_iou, "score_threshold": score_threshold}
            rows.append({**row, **{name: value or 0.0 for name, value in metrics.items()}})
    return sorted(rows, key=lambda row: -row["AP"])


def suppress(
    candidates: ImageDetections, nms_ious: Sequence[float], *, score_threshold: float, most: int | None
) -> list[ImageDetections]:
    """Detections of one image for each nms_iou, as retinanet.postprocess ends; copies, no views."""
    rows = candidates[1] > score_threshold
    boxes, scores, labels = (field[rows] for field in candidates)
    judge = suppressor(torch.from_numpy(boxes).double(), torch.from_numpy(scores).double(), torch.from_numpy(labels))
    best = [judge(nms_iou)[:most].numpy() for nms_iou in nms_ious]
    return [(boxes[each], scores[each], labels[each]) for each in best]


def suppressor(boxes: Tensor, scores: Tensor, labels: Tensor) -> Callable[[float], Tensor]:
    """What torchvision's batched_nms keeps, by the IoU: its own steps, of which all but the last are done only once.

    Up to 1000 boxes it moves each class to a place of its own and calls nms, above that it takes class by class.

    Args:
        boxes: [D, 4]; scores, labels: [D].
    """
    if not 0 < len(boxes) <= BOXES_TOGETHER:
        return partial(batched_nms, boxes, scores, labels)
    apart = boxes + (labels.to(boxes) * (boxes.max() + 1))[:, None]
    return partial(nms, apart, scores)
