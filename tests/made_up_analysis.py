"""Analyses made up by hand: what pages and rules are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from retinanet.evaluation.analysis import (
    ERROR_KINDS,
    Analysis,
    Band,
    ClassFigures,
    ErrorFigures,
    Errors,
    Figure,
    JudgedDetections,
    JudgedTruths,
)

Box = tuple[float, float, float, float]


class Truth(NamedTuple):
    """A ground-truth box: found at the working point, or not."""

    image_id: int
    box: Box
    label: int = 0
    found: bool = True


class Detection(NamedTuple):
    """A detection: `kind` is one of ERROR_KINDS, or right."""

    image_id: int
    box: Box
    score: float = 0.9
    label: int = 0
    kind: str = "right"
    truth: int = -1
    iou: float = 0.0
    in_use: bool = True


def figure(value: float | None) -> Figure:
    """With an interval of 0.02 on both sides."""
    return Figure(None) if value is None else Figure(value, value - 0.02, value + 0.02)


def make_errors(
    detections: Sequence[Detection] = (), truths: Sequence[Truth] = (), gains: Mapping[str, float] | None = None
) -> Errors:
    """Errors with these gains of AP50; kinds that are not named cost nothing."""
    ordered = sorted(detections, key=lambda one: -one.score)
    gained = dict.fromkeys(ERROR_KINDS, 0.0) | dict(gains or {})
    counts = [sum(one.kind == kind for one in ordered) for kind in ERROR_KINDS]
    return Errors(
        ap50=figure(0.8),
        kinds={
            kind: ErrorFigures(figure(gained[kind]), count, count)
            for kind, count in zip(ERROR_KINDS, counts, strict=True)
        },
        false_positives=figure(0.1),
        false_negatives=figure(0.1),
        detections=JudgedDetections(
            image_ids=np.array([one.image_id for one in ordered], np.int64),
            boxes=np.array([one.box for one in ordered], np.float32).reshape(-1, 4),
            scores=np.array([one.score for one in ordered], np.float32),
            labels=np.array([one.label for one in ordered], np.int64),
            kinds=np.array([ERROR_KINDS.index(one.kind) if one.kind != "right" else -1 for one in ordered], np.int64),
            truths=np.array([one.truth for one in ordered], np.int64),
            ious=np.array([one.iou for one in ordered], np.float64),
            in_use=np.array([one.in_use for one in ordered], bool),
        ),
        truths=JudgedTruths(
            image_ids=np.array([one.image_id for one in truths], np.int64),
            boxes=np.array([one.box for one in truths], np.float32).reshape(-1, 4),
            labels=np.array([one.label for one in truths], np.int64),
            found=np.array([one.found for one in truths], bool),
            found_in_use=np.array([one.found for one in truths], bool),
            missed=np.array([not one.found for one in truths], bool),
        ),
    )


def make_class(name: str, ap: float | None = 0.5, **changes: Any) -> ClassFigures:
    """A class of 100 objects."""
    own, none = figure(ap), Figure(None)
    known = ClassFigures(name, 100, 50, 120, own, own, own, own, 0.4, own, own, own)
    if ap is None:
        known = replace(known, num_truths=0, num_images=0, threshold=None, max_recall=none)
    return replace(known, **changes)


def make_band(low: float, high: float | None, recall: float, num_truths: int = 50) -> Band:
    return Band(f"{low:g}", low, high, num_truths, figure(0.6 * recall), figure(recall), figure(recall))


def make_analysis(names: Sequence[str] = ("cell", "virus"), **parts: Any) -> Analysis:
    """AP 0.5, AP50 0.8, precision 0.9 and recall 0.7 on 100 images."""
    overall = {"AP": figure(0.5), "AP50": figure(0.8), "precision": figure(0.9), "recall": figure(0.7)}
    known: dict[str, Any] = {"overall": overall, "classes": [make_class(name, 0.7) for name in names]}
    return Analysis(class_names=list(names), num_images=100, **known | parts)
