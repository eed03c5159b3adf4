"""The COCO numbers of detections, by pycocotools, and the curves behind them.

Here, and nowhere else after the reader, labels (0..K-1) become category ids again and boxes xyxy become xywh.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# One image: boxes [D, 4] float32 (xyxy, pixels of the original image), scores [D] float32, labels [D] int64 (0..K-1).
ImageDetections: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]

NUM_IOUS = 10  # thresholds .5, .55, .., .95
CURVE_IOUS = (0.5, 0.75)  # the two thresholds whose curves are kept
SIZES = ((1, "s"), (2, "m"), (3, "l"))  # pycocotools' area ranges, parted at 32^2 and 96^2 px; range 0 is all areas


class PrecisionRecallPoint(NamedTuple):
    """One of the 101 points of a class's curve."""

    class_name: str
    iou: float  # overlap from which a detection is right: 0.5 or 0.75
    recall: float  # 0, 0.01, .., 1
    precision: float  # the highest at this recall or above; 0 where the detections never reach this recall
    score: float  # the threshold that gives this recall; 0 where none does


class CocoResult(NamedTuple):
    """What one evaluation says.

    metrics: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, then per_class.<name>.AP and .AP50; in 0..1.
        None where no truth of the kind exists (pycocotools says -1, which would spoil a mean; NaN is not JSON).
    precision_recall: 101 points for each class with a truth and each of CURVE_IOUS.
        The mean precision of a class's points at IoU 0.5 is its AP50.
    """

    metrics: dict[str, float | None]
    precision_recall: list[PrecisionRecallPoint]


class ClassMatches(NamedTuple):
    """How the detections of one class meet its truths, over all images; T are the IoUs .5, .55, .., .95.

    Attributes:
        images: [D] place of each detection's image in the truth's list.
        scores: [D] falling.
        right: [T, D] finds a truth.
        ignored: [T, D] lies on a crowd: neither right nor wrong.
        num_truths: [N] of each image, without crowds.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    num_truths: NDArray[np.int64]


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
    """Judge detections against a prepared COCO dictionary; neither is changed and nothing is printed.

    An image of the truth that detections leave out counts as one where nothing was found. Crowds are ignored
    regions: found or not, they neither help nor harm. Equal scores within an image keep their order, as in pycocotools.

    Args:
        truth: images, annotations (bbox xywh px) and categories; a label is a position in categories.
        detections: by image id.
        max_detections: most detections per image and class; AP and the AR of sizes use the largest, and the other
            recalls bear its numbers (AR1, AR10, AR100).
    """
    evaluator = _build_evaluator(truth, coco_results(truth, detections), max_detections=max_detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    class_names = [names[category_id] for category_id in evaluator.params.catIds]  # pycocotools sorts the ids
    return CocoResult(
        _overall_metrics(evaluator) | _class_metrics(evaluator, class_names), _curves(evaluator, class_names)
    )


def coco_results(truth: Mapping[str, Any], detections: Mapping[int, ImageDetections]) -> Iterator[dict[str, Any]]:
    """Detections as the rows of a COCO results file: image_id, category_id, bbox (xywh px) and score, unrounded.

    Raises:
        ValueError: naming the image, when it is not the truth's or has a detection that nobody could judge.
    """
    image_ids = {image["id"] for image in truth["images"]}
    category_ids = [category["id"] for category in truth["categories"]]
    for image_id, (boxes, scores, labels) in detections.items():
        if image_id not in image_ids:
            raise ValueError(f"detections of image id {image_id}, which is not among the {len(image_ids)} of the truth")
        _check_detections(image_id, boxes, scores, labels, num_classes=len(category_ids))
        bboxes = _box_xyxy_to_xywh(boxes).tolist()
        for bbox, score, label in zip(bboxes, scores.tolist(), labels.tolist(), strict=True):
            yield {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}


def match_results(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], *, max_detections: int = 100
) -> list[ClassMatches]:
    """Match the rows of a COCO results file as pycocotools does, once for all AP that can be told from the matches.

    Args:
        results: rows as of coco_results.
        max_detections: per image and class, those of the highest scores.

    Returns:
        One for each category of the truth, in its order.
    """
    evaluator = _build_evaluator(truth, results, max_detections=(max_detections,))
    evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    place_of = {image["id"]: index for index, image in enumerate(truth["images"])}
    places = np.array([place_of[image_id] for image_id in evaluator.params.imgIds], dtype=np.int64)  # [N]
    by_id = {
        category_id: _class_matches(evaluator.evalImgs[k * len(places) : (k + 1) * len(places)], places)
        for k, category_id in enumerate(evaluator.params.catIds)
    }
    return [by_id[category["id"]] for category in truth["categories"]]


def match_detections(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    truth_boxes: NDArray[np.float32],
    truth_labels: NDArray[np.int64],
    *,
    iou_threshold: float = 0.5,
) -> NDArray[np.int64]:
    """Give every detection of one image the truth it finds, by the rule of COCO.

    In the order given, which must be by falling score, each detection takes the truth of its class with the highest
    IoU (at least iou_threshold) that no earlier one has taken.

    Args:
        boxes, labels: [D, 4] xyxy px and [D].
        truth_boxes, truth_labels: [M, 4] xyxy px and [M], without crowds.

    Returns:
        [D] the index of the truth, or -1 for a detection that finds none.
    """
    matches = np.full(len(boxes), -1, dtype=np.int64)
    if len(boxes) == 0 or len(truth_boxes) == 0:
        return matches
    ious = np.asarray(coco_mask.iou(_box_xyxy_to_xywh(boxes), _box_xyxy_to_xywh(truth_boxes), [0] * len(truth_boxes)))
    ious[labels[:, None] != truth_labels[None, :]] = 0.0  # [D, M]
    for detection in range(len(boxes)):
        best = int(ious[detection].argmax())
        if ious[detection, best] >= iou_threshold:
            matches[detection] = best
            ious[:, best] = 0.0
    return matches


def pack_detections(detections: Mapping[int, ImageDetections]) -> PackedDetections:
    """Lay the detections of many images end to end, in the order of the mapping."""
    per_image = list(detections.values())
    return PackedDetections(
        image_ids=np.array(list(detections), dtype=np.int64),
        counts=np.array([len(scores) for _, scores, _ in per_image], dtype=np.int64),
        # The empty array in front lets zero images concatenate too.
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


def _build_evaluator(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]], *, max_detections: Sequence[int]
) -> COCOeval:
    # The ids of annotations start anew at 1: pycocotools marks a match with the id, and takes an id of 0 for no match.
    # The copies are needed because it writes into what it is given.
    annotations = [{**annotation, "id": index} for index, annotation in enumerate(truth["annotations"], start=1)]
    found = [
        {**result, "id": index, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for index, result in enumerate(results, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_coco_index(truth, annotations), _coco_index(truth, found), "bbox")
    evaluator.params.maxDets = sorted(max_detections)
    return evaluator


def _coco_index(truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    # COCO.loadRes would do this for results, but it fails on an empty list.
    index = COCO()
    index.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    index.createIndex()
    return index


def _check_detections(
    image_id: int,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
) -> None:
    # pycocotools would count a box of NaN as right: no comparison with its IoU ever fails.
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(
            f"image id {image_id} has a detection whose box or score is not finite; has training diverged?"
        )
    wrong = [label for label in labels.tolist() if not 0 <= label < num_classes]
    if wrong:
        raise ValueError(
            f"image id {image_id} has a detection of label {wrong[0]}, but the truth has {num_classes} categories "
            f"(labels 0..{num_classes - 1}); was the model trained on other classes?"
        )


def _box_xyxy_to_xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    # float64 first: the difference of two float32 corners is then exact.
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)  # [D, 4]


def _class_matches(found: Sequence[Mapping[str, Any] | None], places: NDArray[np.int64]) -> ClassMatches:
    num_truths = np.zeros(len(places), dtype=np.int64)
    for place, one in zip(places, found, strict=True):
        num_truths[place] = 0 if one is None else np.count_nonzero(one["gtIgnore"] == 0)
    seen = [(place, one) for place, one in zip(places, found, strict=True) if one is not None and one["dtScores"]]
    none = np.zeros((NUM_IOUS, 0), dtype=bool)  # lets no detections concatenate too
    images = np.array([place for place, one in seen for _ in one["dtScores"]], dtype=np.int64)
    scores = np.array([score for _, one in seen for score in one["dtScores"]], dtype=np.float64)
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools: the sort that keeps the order of equal scores
    ignored = np.concatenate([none, *(one["dtIgnore"] for _, one in seen)], axis=1)[:, order].astype(bool)
    matched = np.concatenate([none, *(one["dtMatches"] > 0 for _, one in seen)], axis=1)[:, order].astype(bool)
    return ClassMatches(images[order], scores[order], matched & ~ignored, ignored, num_truths)


def _overall_metrics(evaluator: COCOeval) -> dict[str, float | None]:
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]  # [T, R, K, 4, M], [T, K, 4, M]
    iou_50, iou_75 = (_iou_index(evaluator, iou) for iou in CURVE_IOUS)
    metrics = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[iou_50, ..., 0, -1]),
        "AP75": _mean(precision[iou_75, ..., 0, -1]),
    }
    metrics |= {f"AP{area}": _mean(precision[..., index, -1]) for index, area in SIZES}
    metrics |= {f"AR{most}": _mean(recall[..., 0, index]) for index, most in enumerate(evaluator.params.maxDets)}
    return metrics | {f"AR{area}": _mean(recall[..., index, -1]) for index, area in SIZES}


def _class_metrics(evaluator: COCOeval, class_names: list[str]) -> dict[str, float | None]:
    precision = evaluator.eval["precision"][..., 0, -1]  # [T, R, K]
    iou_50 = _iou_index(evaluator, 0.5)
    metrics = {}
    for k, name in enumerate(class_names):
        metrics[f"per_class.{name}.AP"] = _mean(precision[:, :, k])
        metrics[f"per_class.{name}.AP50"] = _mean(precision[iou_50, :, k])
    return metrics


def _curves(evaluator: COCOeval, class_names: list[str]) -> list[PrecisionRecallPoint]:
    recalls = evaluator.params.recThrs.tolist()  # [R]
    points = []
    for k, name in enumerate(class_names):
        for iou in CURVE_IOUS:
            place = (_iou_index(evaluator, iou), slice(None), k, 0, -1)
            precisions, scores = evaluator.eval["precision"][place], evaluator.eval["scores"][place]  # [R]
            if precisions[0] < 0:  # no truth of this class
                continue
            curve = zip(recalls, precisions.tolist(), scores.tolist(), strict=True)
            points += [PrecisionRecallPoint(name, iou, *values) for values in curve]
    return points


def _iou_index(evaluator: COCOeval, iou: float) -> int:
    return int(np.abs(evaluator.params.iouThrs - iou).argmin())


def _mean(values: NDArray[np.float64]) -> float | None:
    # -1 marks a class without any truth (of this size).
    known = values[values > -1]
    return float(known.mean()) if known.size else None
