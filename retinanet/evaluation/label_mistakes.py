"""Places where the annotation may be wrong, the most suspicious first.

A detector that has not seen the image is sure, and the annotation says otherwise: the idea of FiftyOne's mistakenness
and of cleanlab's ObjectLab (Tkachenko et al. 2023, arXiv 2309.00832), here by the score and the overlap alone.
"""

from __future__ import annotations

import numpy as np

from retinanet.evaluation.analysis import RIGHT, LabelMistake, MistakeKind
from retinanet.evaluation.coco_evaluator import BOX, SCORE
from retinanet.evaluation.errors import CLASSIFICATION, LOCALISATION, ON_BACKGROUND
from retinanet.evaluation.judged_split import JudgedSplit, found_by

MOST = 100
BADLY_PLACED = 0.6  # IoU below which a find is not that of a well-drawn box
LEAST = 0.3  # suspicion

Box = tuple[float, float, float, float]


def find_label_mistakes(split: JudgedSplit, most: int = MOST) -> list[LabelMistake]:
    """Rank detections and truths that contradict each other.

    The suspicion is the score where nothing is labelled, the score times the IoU where a truth that its own class does
    not find at the working point (without one, at all) has a detection of another class on it, and the score times what
    is missing from an IoU of 1 where the box of its own class is off. Of several on one truth the most suspicious is
    listed.
    """
    rows, verdicts = split.matching.rows, split.verdicts
    scores, ious = rows[:, SCORE], verdicts.ious
    found = found_by(split, split.in_use) if split.thresholds is not None else verdicts.found
    lost = ~np.append(found, True)[verdicts.truths]  # [D] its truth is not found
    off = (verdicts.kinds == LOCALISATION) & lost | (verdicts.kinds == RIGHT) & (ious < BADLY_PLACED)
    suspicions: dict[MistakeKind, np.ndarray] = {
        "not labelled": np.where(verdicts.kinds == ON_BACKGROUND, scores, 0.0),
        "other class": np.where((verdicts.kinds == CLASSIFICATION) & lost, scores * ious, 0.0),
        "box": np.where(off, scores * (1 - ious), 0.0),
    }
    kinds = list(suspicions)
    table = np.stack(list(suspicions.values()))  # [3, D], at most one of a column above 0
    suspicion = table.max(axis=0, initial=0.0)
    kind_of = table.argmax(axis=0)
    mistakes: list[LabelMistake] = []
    listed: set[int] = set()
    for detection in np.argsort(-suspicion, kind="stable").tolist():
        if len(mistakes) == most or suspicion[detection] < LEAST:
            break
        truth = int(verdicts.truths[detection])
        if truth >= 0 and truth in listed:
            continue
        listed.add(truth)
        mistakes.append(_mistake(split, detection, kinds[kind_of[detection]], float(suspicion[detection])))
    return mistakes


def _mistake(split: JudgedSplit, detection: int, kind: MistakeKind, suspicion: float) -> LabelMistake:
    ground_truth, row = split.matching.ground_truth, split.matching.rows[detection]
    truth = int(split.verdicts.truths[detection])
    image = split.truth["images"][split.images[detection]]
    has_truth = truth >= 0
    return LabelMistake(
        kind=kind,
        suspicion=suspicion,
        image_id=image["id"],
        file_name=str(image.get("file_name", "")),
        box=_corners(row[BOX]),
        label=int(split.labels[detection]),
        score=float(row[SCORE]),
        truth_id=int(ground_truth.ids[truth]) if has_truth else None,
        truth_box=_corners(ground_truth.boxes[truth]) if has_truth else None,
        truth_label=int(split.truth_labels[truth]) if has_truth else None,
        iou=float(split.verdicts.ious[detection]),
    )


def _corners(box: np.ndarray) -> Box:
    x, y, w, h = (float(side) for side in box)
    return x, y, x + w, y + h
