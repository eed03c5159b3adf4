"""The images on which two runs differ most, by F1 at IoU 0.5, drawn side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reports.pictures import SheetPicture, draw_sheet, set_side_by_side
from retinanet.data.splits import Split
from retinanet.evaluation.class_matches import ClassMatches
from retinanet.evaluation.matching import IOU_50

COLUMNS = 2  # of each run


@dataclass(frozen=True)
class ImageDifference:
    """An image and the F1 of each run on it."""

    index: int  # in the split
    file_name: str
    f1_a: float
    f1_b: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry of reports/compare.json, where the index in the split is called place."""
        return {"place": self.index, "file_name": self.file_name, "f1_a": self.f1_a, "f1_b": self.f1_b}


def best_threshold(matches: Sequence[ClassMatches]) -> float:
    """Return the score threshold with the highest F1 over the split; 1 if there is no true positive.

    Each run gets its own, because losses differ in the level of the scores, which says nothing about quality.
    """
    scores, rights, counted = (np.concatenate(parts) for parts in zip(*(_at_50(one) for one in matches), strict=True))
    if not rights.any():
        return 1.0
    order = np.argsort(-scores, kind="stable")
    scores, right, found = scores[order], np.cumsum(rights[order]), np.cumsum(counted[order])
    truths = sum(int(one.num_truths.sum()) for one in matches)
    f1 = 2 * right / (found + truths)
    f1[:-1][scores[:-1] == scores[1:]] = -1.0  # a threshold cannot separate equal scores
    return float(scores[f1.argmax()])


def f1_of_images(matches: Sequence[ClassMatches], threshold: float) -> NDArray[np.float64]:
    """F1 of each image at IoU 0.5 over all classes, [N]; 1 without ground truth and detections."""
    truths = sum(one.num_truths for one in matches)
    right, found = np.zeros_like(truths), np.zeros_like(truths)
    for one in matches:
        scores, rights, counted = _at_50(one)
        sure = scores >= threshold
        right += np.bincount(one.images[sure & rights], minlength=len(right))
        found += np.bincount(one.images[sure & counted], minlength=len(found))
    return np.where(found + truths > 0, 2 * right / np.maximum(found + truths, 1), 1.0)


def _at_50(matches: ClassMatches) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    return matches.scores, matches.right[IOU_50], ~matches.ignored[IOU_50]


def largest_differences(
    images: Sequence[Mapping[str, Any]], f1_a: NDArray[np.float64], f1_b: NDArray[np.float64], *, count: int
) -> list[ImageDifference]:
    """The images with the largest difference in either direction; images without a difference are left out."""
    order = np.argsort(-np.abs(f1_b - f1_a), kind="stable")[:count].tolist()
    return [
        ImageDifference(index, images[index]["file_name"], float(f1_a[index]), float(f1_b[index]))
        for index in order
        if f1_a[index] != f1_b[index]
    ]


def draw_differences(
    split: Split,
    category_ids: Sequence[int],
    chosen: Sequence[ImageDifference],
    *,
    results: Sequence[Sequence[Mapping[str, Any]]],
    thresholds: Sequence[float],
    titles: Sequence[str],
) -> Image.Image:
    """Draw A's sheet beside B's, with the same image at the same position.

    Args:
        results, thresholds, titles: of A and of B.

    Raises:
        ValueError: naming the file, when an image cannot be read.
    """
    images = {one.index: Image.fromarray(split.picture(one.index).permute(1, 2, 0).numpy()) for one in chosen}
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    sheets = []
    for run in (0, 1):
        pictures = []
        for one in chosen:
            f1 = one.f1_b if run else one.f1_a
            pictures.append(_sheet_picture(split, one, images[one.index], results[run], label_of=label_of, f1=f1))
        sheets.append(draw_sheet(pictures, columns=COLUMNS, score_threshold=thresholds[run]))
    return set_side_by_side(sheets, titles)


def detections_of(
    rows: Sequence[Mapping[str, Any]], image_id: int, label_of: Mapping[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [D, 4] xyxy px, scores [D] and labels [D] of an image, from the rows of a COCO results file."""
    own = [row for row in rows if row["image_id"] == image_id]
    boxes = np.array([row["bbox"] for row in own], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in own], dtype=np.float32)
    return boxes.astype(np.float32), scores, np.array([label_of[row["category_id"]] for row in own], dtype=np.int64)


def _sheet_picture(
    split: Split,
    one: ImageDifference,
    image: Image.Image,
    rows: Sequence[Mapping[str, Any]],
    *,
    label_of: Mapping[int, int],
    f1: float,
) -> SheetPicture:
    record = split.records[one.index]
    boxes, scores, labels = detections_of(rows, record.image_id, label_of)
    return SheetPicture(
        image=image,
        title=f"F1 {f1:.2f}  {Path(one.file_name).name}",
        truth_boxes=record.boxes.numpy(),
        truth_labels=record.labels.numpy(),
        boxes=boxes,
        scores=scores,
        labels=labels,
        class_names=split.class_names,
    )
