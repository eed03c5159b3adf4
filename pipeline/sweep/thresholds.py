"""Post-processing thresholds, which cost no training: searched on a detector's stored candidates."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import batched_nms

from pipeline.params.sweep import Thresholds
from retinanet.coco_eval import ImageDetections, evaluate_detections
from retinanet.dataset import EvaluationBatches
from retinanet.detector import Detector
from retinanet.splits import Split

Array = npt.NDArray[Any]


class Candidates(NamedTuple):
    """What non-maximum suppression would judge, of all images together.

    Attributes:
        image_ids: [D].
        boxes: [D, 4] float32 px of the picture.
        scores: [D] float32.
        labels: [D].
    """

    image_ids: Array
    boxes: Array
    scores: Array
    labels: Array

    def pack(self) -> bytes:
        """As a file."""
        file = io.BytesIO()
        np.savez_compressed(file, **self._asdict())
        return file.getvalue()

    @staticmethod
    def unpack(content: bytes) -> Candidates:
        """The inverse of pack."""
        with np.load(io.BytesIO(content)) as file:
            return Candidates(**{name: file[name] for name in Candidates._fields})


def find_candidates(detector: Detector, split: Split, *, postprocess: Mapping[str, Any], lowest: float) -> Candidates:
    """Detect without suppression.

    Args:
        postprocess: section `postprocess`; all of it but the thresholds holds here too.
        lowest: the smallest score threshold that will be asked for.
    """
    rest = {**postprocess, "score_threshold": lowest, "nms_iou": 1.0, "max_detections": None}
    detector.postprocess = detector.build_postprocess(**rest)
    batches = EvaluationBatches(split, detector.transforms)
    found = list(detector.predict(batches[position] for position in range(len(batches))))
    counts = [len(detections.scores) for _, detections in found]
    return Candidates(
        image_ids=np.repeat(np.array([image_id for image_id, _ in found], dtype=np.int64), counts),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(d.boxes.numpy() for _, d in found)]),
        scores=np.concatenate([np.zeros(0, np.float32), *(d.scores.numpy() for _, d in found)]),
        labels=np.concatenate([np.zeros(0, np.int64), *(d.labels.numpy() for _, d in found)]),
    )


def search_thresholds(
    candidates: Candidates, content: Mapping[str, Any], thresholds: Thresholds, *, max_detections: int | None
) -> list[dict[str, float]]:
    """AP and AP50 under every pair of thresholds, best AP first."""
    rows = []
    for nms_iou in thresholds.nms_iou:
        # The best detections of a lower score threshold begin with those of a higher one.
        lowest = min(thresholds.score_threshold)
        kept = dict(suppress(candidates, content, nms_iou=nms_iou, score_threshold=lowest, most=max_detections))
        for score_threshold in thresholds.score_threshold:
            metrics = evaluate_detections(content, above(kept, score_threshold)).metrics
            row = {"nms_iou": nms_iou, "score_threshold": score_threshold}
            rows.append({**row, **{name: metrics[name] or 0.0 for name in ("AP", "AP50")}})
    return sorted(rows, key=lambda row: -row["AP"])


def suppress(
    candidates: Candidates, content: Mapping[str, Any], *, nms_iou: float, score_threshold: float, most: int | None
) -> Iterator[tuple[int, ImageDetections]]:
    """Detections of every image by its id, as retinanet.postprocess ends."""
    for image in content["images"]:
        rows = (candidates.image_ids == image["id"]) & (candidates.scores > score_threshold)
        boxes, scores, labels = candidates.boxes[rows], candidates.scores[rows], candidates.labels[rows]
        keep = batched_nms(
            torch.from_numpy(boxes).double(), torch.from_numpy(scores).double(), torch.from_numpy(labels), nms_iou
        )
        best = keep[:most].numpy()
        yield image["id"], (boxes[best], scores[best], labels[best])


def above(detections: Mapping[int, ImageDetections], score_threshold: float) -> dict[int, ImageDetections]:
    """The detections with a higher score."""
    result = {}
    for image_id, (boxes, scores, labels) in detections.items():
        rows = scores > score_threshold
        result[image_id] = (boxes[rows], scores[rows], labels[rows])
    return result
