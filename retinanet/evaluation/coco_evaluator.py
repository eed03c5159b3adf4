"""COCO's evaluator on arrays: hotcoco, which has the interface of pycocotools and its figures to the last bit.

Images and categories are numbered from 1 in the order of their ids, in which pycocotools takes them. The detections
of a whole split are one float64 array, in which ids above 2^53 would not stay apart.

Axes: G ground-truth boxes, D detections, T IoU thresholds 0.5, 0.55, .., 0.95, R recalls, K classes, S area ranges,
M limits of detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from hotcoco import COCO, COCOeval, mask
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float64]
"""Detections, [D, 7]: number of the image, box x y w h in px, score, number of the category."""

IMAGE, BOX, SCORE, CATEGORY = 0, slice(1, 5), 5, 6  # columns of Rows
ALL_AREAS = (0.0, 1e10)  # px^2, the first of COCO's area ranges


class GroundTruth(NamedTuple):
    """The ground truth of a split.

    Attributes:
        coco: the annotations, as the evaluator takes them, with ids from 1 in this order.
        images: id -> number.
        categories: id -> number.
        ids: [G] of each annotation in the file; -1 for one without.
        image_numbers: [G] of each annotation.
        category_numbers: [G] of each annotation.
        boxes: [G, 4] of each annotation, x y w h in px.
        areas: [G] of each annotation, px^2; that of an outline may be smaller than its box.
        crowd: [G] the annotation is an ignored region.
    """

    coco: COCO
    images: dict[int, int]
    categories: dict[int, int]
    ids: NDArray[np.int64]
    image_numbers: NDArray[np.int64]
    category_numbers: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]


def read_ground_truth(truth: Mapping[str, Any]) -> GroundTruth:
    """Read a prepared COCO dictionary; annotations of images or categories that it does not list are left out."""
    images, categories = number_ids(truth["images"]), number_ids(truth["categories"])
    listed = [row for row in truth["annotations"] if row["image_id"] in images and row["category_id"] in categories]
    ids = np.array([row.get("id", -1) for row in listed], dtype=np.int64)
    image_numbers = np.array([images[row["image_id"]] for row in listed], dtype=np.int64)
    category_numbers = np.array([categories[row["category_id"]] for row in listed], dtype=np.int64)
    boxes = np.array([row["bbox"] for row in listed], dtype=np.float64).reshape(-1, 4)
    areas = np.array([row["area"] for row in listed], dtype=np.float64)
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in listed], dtype=bool)
    coco = COCO.from_arrays(
        [{"id": number} for number in images.values()],
        [{"id": number, "name": str(number)} for number in categories.values()],
        image_numbers,
        category_numbers,
        boxes,
        area=areas,
        iscrowd=crowd,
    )
    return GroundTruth(coco, images, categories, ids, image_numbers, category_numbers, boxes, areas, crowd)


def number_ids(rows: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Id -> number, from 1 in the order of the ids."""
    return {row_id: number for number, row_id in enumerate(sorted(row["id"] for row in rows), start=1)}


def evaluate_rows(
    ground_truth: GroundTruth, rows: Rows, *, max_detections: Sequence[int], area: Sequence[float] | None = None
) -> COCOeval:
    """Match detections with the ground truth; `accumulate` of the result then fills its tables.

    Args:
        max_detections: M limits of detections per image and class, rising.
        area: smallest and largest area in px^2, both included, of the one range that is evaluated (S is 1); None:
            COCO's 4 ranges.

    Returns:
        evalImgs: the matches; after accumulate(), eval["precision"] and eval["scores"] [T, R, K, S, M] and
        eval["recall"] [T, K, S, M], with -1 where a class has no ground truth of that size. K is in the order of the
        categories' ids.
    """
    evaluator = COCOeval(ground_truth.coco, ground_truth.coco.loadRes(rows), "bbox")
    evaluator.params.maxDets = list(max_detections)
    if area is not None:
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [list(area)], ["range"]
    evaluator.evaluate()
    return evaluator


def box_ious(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of every box with every other, in the evaluator's arithmetic: [D, 4] and [G, 4] xyxy px -> [D, G]."""
    ious = mask.iou(box_xyxy_to_xywh(boxes), box_xyxy_to_xywh(others), np.zeros(len(others), dtype=bool))
    return np.asarray(ious, dtype=np.float64).reshape(len(boxes), len(others))


def box_xyxy_to_xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """[D, 4] -> [D, 4], in float64, in which the difference of two float32 corners is exact."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
