"""The COCO numbers of detections, those of pycocotools to the last bit, and the curves behind them.

Here, and nowhere else after the reader, labels (0..K-1) become category ids again and boxes xyxy become xywh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.coco_match import IOUS, Found, Truths, match, overlap, pick
from retinanet.evaluation.coco_tables import RECALLS, Tables, accumulate

# One image: boxes [D, 4] float32 (xyxy, pixels of the original image), scores [D] float32, labels [D] int64 (0..K-1).
ImageDetections: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]

CURVE_IOUS = (0.5, 0.75)  # the two thresholds whose curves are kept
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], dtype=np.float64)  # px^2
SIZES = ((1, "s"), (2, "m"), (3, "l"))  # which of these ranges have metrics of their own; range 0 is all areas


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
    truths, found, limits = read_truths(truth), read_detections(truth, detections), sorted(max_detections)
    matches = match(truths, found, num_images=len(truth["images"]), area_ranges=AREA_RANGES, most=limits[-1])
    by_id = sorted(range(len(truth["categories"])), key=lambda label: truth["categories"][label]["id"])
    tables = accumulate(truths, found, matches, area_ranges=AREA_RANGES, labels=by_id, limits=limits)
    class_names = [truth["categories"][label]["name"] for label in by_id]  # in the order of pycocotools
    return CocoResult(
        _overall_metrics(tables, limits) | _class_metrics(tables, class_names), _curves(tables, class_names)
    )


def coco_results(truth: Mapping[str, Any], detections: Mapping[int, ImageDetections]) -> Iterator[dict[str, Any]]:
    """Detections as the rows of a COCO results file: image_id, category_id, bbox (xywh px) and score, unrounded.

    Raises:
        ValueError: naming the image, when it is not the truth's or has a detection that nobody could judge.
    """
    _check_detections(truth, pack_detections(detections))
    category_ids = [category["id"] for category in truth["categories"]]
    for image_id, (boxes, scores, labels) in detections.items():
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
    truths, found, num_images = read_truths(truth), _read_results(truth, results), len(truth["images"])
    matches = match(truths, found, num_images=num_images, area_ranges=AREA_RANGES[:1], most=max_detections)
    labels = found.labels[matches.chosen]
    listed = np.argsort([image["id"] for image in truth["images"]]).astype(np.int64)  # by the order of ids
    classes = []
    for label in range(len(truth["categories"])):
        rows = slice(*np.searchsorted(labels, [label, label + 1]))
        chosen = matches.chosen[rows]
        own = listed[truths.images[(truths.labels == label) & ~truths.crowd]]
        classes.append(
            ClassMatches(
                images=listed[found.images[chosen]],
                scores=found.scores[chosen],
                right=matches.right[0][:, rows],
                ignored=matches.ignored[0][:, rows],
                num_truths=np.bincount(own, minlength=num_images),
            )
        )
    return classes


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
    no_crowd = np.zeros(len(truth_boxes), dtype=bool)
    ious = overlap(_box_xyxy_to_xywh(boxes)[:, None], _box_xyxy_to_xywh(truth_boxes), no_crowd)
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


def _places(truth: Mapping[str, Any], image_ids: Iterable[int]) -> NDArray[np.int64]:
    """Places of images in the order of their ids, in which pycocotools takes them; -1: not among the truth's."""
    place_of = {image_id: place for place, image_id in enumerate(sorted(image["id"] for image in truth["images"]))}
    return np.array([place_of.get(image_id, -1) for image_id in image_ids], dtype=np.int64)


def _labels(truth: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> NDArray[np.int64]:
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    return np.array([label_of.get(row["category_id"], -1) for row in rows], dtype=np.int64)


def read_detections(truth: Mapping[str, Any], detections: Mapping[int, ImageDetections]) -> Found:
    """Detections as arrays, checked against the truth; see evaluate_detections."""
    packed = pack_detections(detections)
    _check_detections(truth, packed)
    images = np.repeat(_places(truth, packed.image_ids), packed.counts)
    return Found(images, packed.labels, _box_xyxy_to_xywh(packed.boxes), packed.scores.astype(np.float64))


def read_truths(truth: Mapping[str, Any]) -> Truths:
    """The annotations of a prepared COCO dictionary as arrays."""
    rows = truth["annotations"]
    truths = Truths(
        images=_places(truth, (row["image_id"] for row in rows)),
        labels=_labels(truth, rows),
        boxes=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        areas=np.array([row["area"] for row in rows], dtype=np.float64),
        crowd=np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=bool),
    )
    known = (truths.images >= 0) & (truths.labels >= 0)
    return pick(truths, known)


def _read_results(truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> Found:
    rows = list(results)
    found = Found(
        images=_places(truth, (row["image_id"] for row in rows)),
        labels=_labels(truth, rows),
        boxes=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
    )
    known = (found.images >= 0) & (found.labels >= 0)
    return pick(found, known)


def _check_detections(truth: Mapping[str, Any], packed: PackedDetections) -> None:
    """Refuse what nobody could judge, naming its image."""
    unknown = packed.image_ids[_places(truth, packed.image_ids.tolist()) < 0]
    if len(unknown):
        raise ValueError(
            f"detections of image id {unknown[0]}, which is not among the {len(truth['images'])} of the truth"
        )
    image_ids, num_classes = np.repeat(packed.image_ids, packed.counts), len(truth["categories"])
    # No comparison with the IoU of a box of NaN ever fails as it should.
    infinite = ~(np.isfinite(packed.boxes).all(axis=1) & np.isfinite(packed.scores))
    if infinite.any():
        raise ValueError(
            f"image id {image_ids[infinite][0]} has a detection whose box or score is not finite; "
            "has training diverged?"
        )
    wrong = (packed.labels < 0) | (packed.labels >= num_classes)
    if wrong.any():
        raise ValueError(
            f"image id {image_ids[wrong][0]} has a detection of label {packed.labels[wrong][0]}, but the truth has "
            f"{num_classes} categories (labels 0..{num_classes - 1}); was the model trained on other classes?"
        )


def _box_xyxy_to_xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    # float64 first: the difference of two float32 corners is then exact.
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)  # [D, 4]


def _overall_metrics(tables: Tables, limits: Sequence[int]) -> dict[str, float | None]:
    precision, recall = tables.precision, tables.recall
    metrics = {"AP": mean_known(precision[..., 0])}
    metrics |= {f"AP{100 * iou:.0f}": mean_known(precision[_iou_index(iou), ..., 0]) for iou in CURVE_IOUS}
    metrics |= {f"AP{area}": mean_known(precision[..., index]) for index, area in SIZES}
    metrics |= {f"AR{most}": mean_known(recall[:, :, 0, index]) for index, most in enumerate(limits)}
    return metrics | {f"AR{area}": mean_known(recall[:, :, index, -1]) for index, area in SIZES}


def _class_metrics(tables: Tables, class_names: list[str]) -> dict[str, float | None]:
    precision = tables.precision[..., 0]  # [T, R, K]
    metrics = {}
    for k, name in enumerate(class_names):
        metrics[f"per_class.{name}.AP"] = mean_known(precision[:, :, k])
        metrics[f"per_class.{name}.AP50"] = mean_known(precision[_iou_index(0.5), :, k])
    return metrics


def _curves(tables: Tables, class_names: list[str]) -> list[PrecisionRecallPoint]:
    points = []
    for k, name in enumerate(class_names):
        for iou in CURVE_IOUS:
            precisions, scores = tables.precision[_iou_index(iou), :, k, 0], tables.scores[_iou_index(iou), :, k]
            if precisions[0] < 0:  # no truth of this class
                continue
            curve = zip(RECALLS.tolist(), precisions.tolist(), scores.tolist(), strict=True)
            points += [PrecisionRecallPoint(name, iou, *values) for values in curve]
    return points


def _iou_index(iou: float) -> int:
    return int(np.abs(IOUS - iou).argmin())


def mean_known(values: NDArray[np.float64]) -> float | None:
    """Mean without the -1 that marks a class without any truth (of this size); None where there is nothing else."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
