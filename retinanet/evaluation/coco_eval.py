"""COCO metrics and precision-recall curves of detections, equal to those of pycocotools to the last bit.

Here, and nowhere else after the reader, labels (0..K-1) become category ids again and boxes xyxy become xywh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_evaluator import (
    GroundTruth,
    Rows,
    box_xyxy_to_xywh,
    evaluate_rows,
    number_ids,
    read_ground_truth,
)

# One image: boxes [D, 4] float32 (xyxy, pixels of the original image), scores [D] float32, or float64 to be written,
# labels [D] int64 (0..K-1).
Scores: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
ImageDetections: TypeAlias = tuple[NDArray[np.float32], Scores, NDArray[np.int64]]
Table: TypeAlias = NDArray[np.float64]  # of the evaluator; axes as in coco_evaluator

CURVE_IOUS = {0.5: 0, 0.75: 5}  # IoU thresholds with a curve of their own -> their index among the ten
SIZES = ((1, "s"), (2, "m"), (3, "l"))  # index among COCO's area ranges and its letter; range 0 is all areas


class PrecisionRecallPoint(NamedTuple):
    """One of the 101 points of the precision-recall curve of a class."""

    class_name: str
    iou: float  # IoU threshold, 0.5 or 0.75
    recall: float  # 0, 0.01, .., 1
    precision: float  # the highest at this recall or above; 0 where the detections never reach this recall
    score: float  # score threshold that gives this recall; 0 where none does


class CocoResult(NamedTuple):
    """Metrics and curves of one evaluation.

    Attributes:
        metrics: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, then per_class.<name>.AP and .AP50; in 0..1.
            None where there is no ground truth of the kind (pycocotools returns -1, which would spoil a mean; NaN is
            not JSON).
        precision_recall: 101 points for each class with ground truth and each of CURVE_IOUS.
            The mean precision of a class's points at IoU 0.5 is its AP50.
    """

    metrics: dict[str, float | None]
    precision_recall: list[PrecisionRecallPoint]


class PackedDetections(NamedTuple):
    """Detections of N images, D together, as five flat arrays: cheap to send, images without any included."""

    image_ids: NDArray[np.int64]  # [N]
    counts: NDArray[np.int64]  # [N], detections of each image; their sum is D
    boxes: NDArray[np.float32]  # [D, 4] xyxy px, image after image
    scores: NDArray[np.float32]  # [D]
    labels: NDArray[np.int64]  # [D]


def evaluate_detections(
    truth: Mapping[str, Any],
    detections: Mapping[int, ImageDetections],
    *,
    max_detections: Sequence[int] = (1, 10, 100),
) -> CocoResult:
    """Evaluate detections against a prepared COCO dictionary; neither is changed and nothing is printed.

    An image that has no detections counts. Crowds are ignored regions: a detection on one is neither a true nor a
    false positive. Equal scores within an image keep their order, as in pycocotools.

    Args:
        truth: images, annotations (bbox xywh px) and categories; a label is an index into categories.
        detections: by image id.
        max_detections: limits of detections per image and class. AP and the AR of sizes use the largest; the other
            recalls are named by theirs (AR1, AR10, AR100).

    Raises:
        ValueError: naming the image, for a detection that cannot be evaluated (see coco_results).
    """
    ground_truth, limits = read_ground_truth(truth), sorted(max_detections)
    evaluator = evaluate_rows(ground_truth, read_detections(ground_truth, truth, detections), max_detections=limits)
    evaluator.accumulate()
    assert evaluator.eval is not None
    tables = {name: evaluator.eval[name] for name in ("precision", "scores", "recall")}
    precision, scores = tables["precision"][..., -1], tables["scores"][..., 0, -1]  # [T, R, K, S] and [T, R, K]
    name_of = {category["id"]: category["name"] for category in truth["categories"]}
    class_names = [name_of[category_id] for category_id in ground_truth.categories]
    metrics = _overall_metrics(precision, tables["recall"], limits) | _class_metrics(precision[..., 0], class_names)
    curves = _curves(precision[..., 0], scores, evaluator.params.recThrs, class_names)
    return CocoResult(metrics, curves)


def coco_results(truth: Mapping[str, Any], detections: Mapping[int, ImageDetections]) -> Iterator[dict[str, Any]]:
    """Rows of a COCO results file: image_id, category_id, bbox (xywh px) and score, unrounded.

    Raises:
        ValueError: naming the image, when it is not in the ground truth or has a detection with a NaN, an infinite
            number or a label of no category.
    """
    _check_detections(number_ids(truth["images"]), len(truth["categories"]), pack_detections(detections))
    category_ids = [category["id"] for category in truth["categories"]]
    for image_id, (boxes, scores, labels) in detections.items():
        bboxes = box_xyxy_to_xywh(boxes).tolist()
        for bbox, score, label in zip(bboxes, scores.tolist(), labels.tolist(), strict=True):
            yield {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}


def pack_detections(detections: Mapping[int, ImageDetections]) -> PackedDetections:
    """Concatenate the detections of many images, in the order of the mapping."""
    per_image = list(detections.values())
    return PackedDetections(
        image_ids=np.array(list(detections), dtype=np.int64),
        counts=np.array([len(scores) for _, scores, _ in per_image], dtype=np.int64),
        # With an empty array in front, zero images concatenate too.
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(boxes for boxes, _, _ in per_image)], dtype=np.float32),
        scores=np.concatenate([np.zeros(0, np.float32), *(scores for _, scores, _ in per_image)], dtype=np.float32),
        labels=np.concatenate([np.zeros(0, np.int64), *(labels for _, _, labels in per_image)], dtype=np.int64),
    )


def unpack_detections(packed: PackedDetections) -> dict[int, ImageDetections]:
    """Undo pack_detections; the arrays are views of the packed ones."""
    ends = np.cumsum(packed.counts)
    return {
        int(image_id): (packed.boxes[start:end], packed.scores[start:end], packed.labels[start:end])
        for image_id, start, end in zip(packed.image_ids, ends - packed.counts, ends, strict=True)
    }


def read_detections(
    ground_truth: GroundTruth, truth: Mapping[str, Any], detections: Mapping[int, ImageDetections]
) -> Rows:
    """Detections as the evaluator takes them, checked; arguments as of evaluate_detections."""
    packed = pack_detections(detections)
    _check_detections(ground_truth.images, len(ground_truth.categories), packed)
    image_numbers = np.array([ground_truth.images[image_id] for image_id in detections], dtype=np.int64)
    category_numbers = np.array([ground_truth.categories[row["id"]] for row in truth["categories"]], dtype=np.int64)
    return np.column_stack(
        [
            np.repeat(image_numbers, packed.counts),
            box_xyxy_to_xywh(packed.boxes),
            packed.scores.astype(np.float64),
            category_numbers[packed.labels],
        ]
    )


def _check_detections(images: Mapping[int, int], num_classes: int, packed: PackedDetections) -> None:
    """Raise ValueError for detections that cannot be evaluated."""
    unknown = [image_id for image_id in packed.image_ids.tolist() if image_id not in images]
    if unknown:
        raise ValueError(
            f"detections of image id {unknown[0]}, which is not among the {len(images)} images of the ground truth"
        )
    image_ids = np.repeat(packed.image_ids, packed.counts)
    infinite = ~(np.isfinite(packed.boxes).all(axis=1) & np.isfinite(packed.scores))
    if infinite.any():
        raise ValueError(
            f"image id {image_ids[infinite][0]} has a detection whose box or score is not finite; "
            "has training diverged?"
        )
    wrong = (packed.labels < 0) | (packed.labels >= num_classes)
    if wrong.any():
        raise ValueError(
            f"image id {image_ids[wrong][0]} has a detection of label {packed.labels[wrong][0]}, but the ground truth "
            f"has {num_classes} categories (labels 0..{num_classes - 1}); was the model trained on other classes?"
        )


def _overall_metrics(precision: Table, recall: Table, limits: Sequence[int]) -> dict[str, float | None]:
    """The twelve COCO numbers from [T, R, K, S] and [T, K, S, M]."""
    metrics = {"AP": mean_known(precision[..., 0])}
    metrics |= {f"AP{100 * iou:.0f}": mean_known(precision[t, ..., 0]) for iou, t in CURVE_IOUS.items()}
    metrics |= {f"AP{area}": mean_known(precision[..., index]) for index, area in SIZES}
    metrics |= {f"AR{most}": mean_known(recall[:, :, 0, index]) for index, most in enumerate(limits)}
    return metrics | {f"AR{area}": mean_known(recall[:, :, index, -1]) for index, area in SIZES}


def _class_metrics(precision: Table, class_names: Sequence[str]) -> dict[str, float | None]:
    """AP and AP50 of each class from [T, R, K]."""
    metrics = {}
    for k, name in enumerate(class_names):
        metrics[f"per_class.{name}.AP"] = mean_known(precision[:, :, k])
        metrics[f"per_class.{name}.AP50"] = mean_known(precision[CURVE_IOUS[0.5], :, k])
    return metrics


def _curves(
    precision: Table, scores: Table, recalls: Sequence[float], class_names: Sequence[str]
) -> list[PrecisionRecallPoint]:
    """Curves of the classes with ground truth from [T, R, K]."""
    points = []
    for k, name in enumerate(class_names):
        for iou, t in CURVE_IOUS.items():
            if precision[t, 0, k] >= 0:
                curve = zip(recalls, precision[t, :, k].tolist(), scores[t, :, k].tolist(), strict=True)
                points += [PrecisionRecallPoint(name, iou, *values) for values in curve]
    return points


def mean_known(values: Table) -> float | None:
    """Mean without the -1 of a class without ground truth (of this size); None where there is nothing else."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
