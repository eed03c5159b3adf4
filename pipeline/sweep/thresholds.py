"""Search of post-processing thresholds on the candidates of a detector, before non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, nms

from pipeline.params.detector import Postprocess
from pipeline.params.sweep import Thresholds
from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import Split
from retinanet.evaluation.coco_eval import ImageDetections, Scores
from retinanet.evaluation.coco_thresholds import average_precision_above
from retinanet.inference.detector import Detector
from retinanet.inference.postprocess import TRIED_FIRST

BOXES_TOGETHER = 1000  # torchvision's, on the CPU


def find_candidates(
    detector: Detector, split: Split, *, postprocess: Postprocess, lowest: float
) -> Iterator[tuple[int, ImageDetections]]:
    """Detect without suppression, image by image: all candidates of COCO's val together are up to 25 million.

    Args:
        postprocess: section `postprocess`; everything in it except the thresholds applies.
        lowest: the lowest score threshold of the search.

    Yields:
        Each image's id and its candidates for non-maximum suppression: boxes [D, 4] float32 px of the original
        image, scores [D] float32, labels [D].
    """
    detector.postprocess = detector.build_postprocess(
        score_threshold=lowest,
        candidates_per_level=postprocess.candidates_per_level,
        nms_iou=1.0,
        max_detections=None,
        min_size=postprocess.min_size,
    )
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

    Each image's candidates are read once; at most `max_detections` of them are kept for each nms_iou.

    Args:
        candidates: by image, as of find_candidates; an iterator suffices.
        content: the content of the split's prepared file.
    """
    # The best detections of a lower score threshold begin with those of a higher one.
    lowest = min(thresholds.score_threshold)
    detections, kept = {}, {}
    for image_id, found in candidates:
        detections[image_id], kept[image_id] = suppress(
            found, thresholds.nms_iou, score_threshold=lowest, most=max_detections
        )
    choices = np.concatenate([np.zeros((len(thresholds.nms_iou), 0), dtype=bool), *kept.values()], axis=1)
    figures = average_precision_above(content, detections, choices, thresholds.score_threshold)
    rows = []
    for nms_iou, each in zip(thresholds.nms_iou, figures, strict=True):
        for score_threshold, metrics in zip(thresholds.score_threshold, each, strict=True):
            row = {"nms_iou": nms_iou, "score_threshold": score_threshold}
            rows.append({**row, **{name: value or 0.0 for name, value in metrics.items()}})
    return sorted(rows, key=lambda row: -row["AP"])


def suppress(
    candidates: ImageDetections, nms_ious: Sequence[float], *, score_threshold: float, most: int | None
) -> tuple[ImageDetections, NDArray[np.bool_]]:
    """Suppress the candidates of one image under each nms_iou, as retinanet.inference.postprocess does.

    As there, the best few are tried first, which are mostly enough.

    Returns:
        The D detections that any nms_iou keeps, best first, as copies; [V, D] which of them each nms_iou keeps.
    """
    boxes, scores, labels = candidates
    count = int(np.count_nonzero(scores > score_threshold))
    best_first = np.argsort(-scores, kind="stable")[:count]
    boxes, scores, labels = boxes[best_first], scores[best_first], labels[best_first]
    few = count if most is None else min(count, TRIED_FIRST * most)
    tried = [suppressor(boxes[:each], scores[:each], labels[:each]) for each in sorted({few, count})]
    kept = np.zeros((len(nms_ious), count), dtype=bool)
    for own, nms_iou in zip(kept, nms_ious, strict=True):
        for judge in tried:
            best = judge(nms_iou)[:most].numpy()
            if len(best) == most:
                break
        own[best] = True
    rows = np.flatnonzero(kept.any(axis=0))
    return (boxes[rows], scores[rows], labels[rows]), kept[:, rows]


def suppressor(boxes: NDArray[np.float32], scores: Scores, labels: NDArray[np.int64]) -> Callable[[float], Tensor]:
    """Torchvision's batched_nms as a function of the IoU, with all of its steps but the last done once.

    Up to 1000 boxes, batched_nms shifts each class by an offset of its own and calls nms; above that it calls nms class
    by class. In float64, so that large offsets are not rounded.

    Args:
        boxes: [D, 4]; scores, labels: [D].
    """
    doubled, their_scores = boxes.astype(np.float64), torch.from_numpy(scores.astype(np.float64))
    if not 0 < len(boxes) <= BOXES_TOGETHER:
        return partial(batched_nms, torch.from_numpy(doubled), their_scores, torch.from_numpy(labels))
    doubled += (labels * (doubled.max() + 1))[:, None]
    return partial(nms, torch.from_numpy(doubled), their_scores)
