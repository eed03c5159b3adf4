"""All measures of a detector on a split from one matching, each with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.analysis import (
    ERROR_KINDS,
    Analysis,
    Band,
    Bootstrap,
    ClassFigures,
    Confusion,
    ErrorFigures,
    Errors,
    Figure,
)
from retinanet.evaluation.bootstrap import (
    Numbers,
    Track,
    average_precision,
    describe_figure,
    draw_weights,
    mean_over_classes,
)
from retinanet.evaluation.calibration import measure_calibration
from retinanet.evaluation.class_matches import ClassMatches, split_by_class
from retinanet.evaluation.coco_evaluator import SCORE
from retinanet.evaluation.conditions import measure_conditions
from retinanet.evaluation.errors import (
    VARIANTS,
    confuse,
    count_errors,
    mended_matches,
)
from retinanet.evaluation.judged_split import JudgedSplit, found_by, judge_split, judged_detections, judged_truths
from retinanet.evaluation.label_mistakes import find_label_mistakes
from retinanet.evaluation.matching import IOU_50, IOU_75, Matching, match_area
from retinanet.evaluation.working_point import figures_of

SEED = 0
BANDS: tuple[tuple[str, float, float], ...] = (
    ("s", 0, 32),
    ("m", 32, 96),
    ("l", 96, 1e5),
    ("0-16", 0, 16),
    ("16-32", 16, 32),
    ("32-64", 32, 64),
    ("64-96", 64, 96),
    ("96-192", 96, 192),
    ("192-384", 192, 384),
    ("384-", 384, 1e5),
)
"""Name, smallest and largest side in px of a square of the object's area: COCO's sizes, then finer ones."""
NO_LIMIT = 1e5


def analyse(
    truth: Mapping[str, Any],
    matching: Matching,
    metrics: Mapping[str, float | None],
    *,
    thresholds: Sequence[float] | None,
    resamples: int,
    temperature: float | None = None,
    seed: int = SEED,
    track: Callable[[str], Track] = lambda title: iter,
) -> Analysis:
    """Compute the measures that need neither network nor pictures.

    Args:
        truth: that was matched.
        metrics: of coco_eval.evaluate_detections, whose values are taken over.
        thresholds: of each class, the working point.
        resamples: of the images; 0 for no intervals, and there are none for a single image, which has no spread.
        temperature: of the scores, fitted on other images.
        track: for a title, what passes on the classes while it shows the progress.
    """
    num_images = len(truth["images"])
    resamples = resamples if num_images > 1 else 0
    split = judge_split(truth, matching, thresholds, draw_weights(num_images, resamples, seed=seed), track)
    matches = split_by_class(truth, matching)
    precision = average_precision(matches, split.weights, track=track("AP"))  # [1 + B, K, T]
    bands = measure_bands(split)
    counted = ~matching.ignored[IOU_50]
    return Analysis(
        class_names=split.class_names,
        num_images=num_images,
        overall=measure_overall(split, matches, precision, bands, metrics),
        bootstrap=Bootstrap(resamples, seed) if resamples else None,
        errors=measure_errors(split),
        confusion=measure_confusion(split),
        classes=measure_classes(split, precision),
        bands=bands,
        calibration=measure_calibration(
            matching.rows[counted, SCORE].astype(np.float32),
            matching.right[IOU_50][counted],
            split.images[counted],
            split.shares,
            temperature,
        ),
        mistakes=find_label_mistakes(split),
        conditions=measure_conditions(split, matches),
    )


def measure_overall(
    split: JudgedSplit,
    matches: Sequence[ClassMatches],
    precision: Numbers,
    bands: Iterable[Band],
    metrics: Mapping[str, float | None],
) -> dict[str, Figure]:
    """AP, AP50, AP75, by size, AR100, and precision, recall and F1 at the working point."""
    figures = {
        "AP": describe_figure(mean_over_classes(precision.mean(axis=2))),
        "AP50": describe_figure(mean_over_classes(precision[:, :, IOU_50])),
        "AP75": describe_figure(mean_over_classes(precision[:, :, IOU_75])),
    }
    figures |= {f"AP{band.name}": band.ap for band in bands if band.name in ("s", "m", "l")}
    figures["AR100"] = describe_figure(_average_recall(split, matches))
    in_use = _figures_in_use(split, np.ones(len(split.labels), bool), np.ones(len(split.truth_labels), bool))
    figures |= dict(zip(("precision", "recall", "F1"), in_use, strict=True))
    return {name: with_value(figure, metrics[name]) if name in metrics else figure for name, figure in figures.items()}


def with_value(figure: Figure, value: float | None) -> Figure:
    """The figure with a value that differs from its own in the last bits alone."""
    assert (value is None) == (figure.value is None) and abs((value or 0) - (figure.value or 0)) < 1e-9
    return Figure(value, figure.low, figure.high)


def measure_classes(split: JudgedSplit, precision: Numbers) -> list[ClassFigures]:
    """The figures of each class; `precision` is [1 + B, K, T]."""
    matching, crowd = split.matching, split.matching.ground_truth.crowd
    found = matching.right[IOU_50]
    classes = []
    for k, name in enumerate(split.class_names):
        own, own_truths = split.labels == k, (split.truth_labels == k) & ~crowd
        in_use = _figures_in_use(split, own, own_truths)
        most = _ratio(split.sums(split.images[own & found]), split.sums(split.truth_images[own_truths]))
        classes.append(
            ClassFigures(
                name=name,
                num_truths=int(np.count_nonzero(own_truths)),
                num_images=len(np.unique(split.truth_images[own_truths])),
                num_detections=int(np.count_nonzero(own)),
                ap=describe_figure(precision[:, k].mean(axis=1)),
                ap50=describe_figure(precision[:, k, IOU_50]),
                ap75=describe_figure(precision[:, k, IOU_75]),
                max_recall=describe_figure(most),
                threshold=None if split.thresholds is None else float(split.thresholds[k]),
                precision=in_use[0],
                recall=in_use[1],
                f1=in_use[2],
            )
        )
    return classes


def measure_bands(split: JudgedSplit, bands: Sequence[tuple[str, float, float]] = BANDS) -> list[Band]:
    """AP of the objects of each size, by COCO's rule, for the sizes that there are."""
    ground_truth, found_in_use = split.matching.ground_truth, found_by(split, split.in_use)
    measured = []
    for name, low, high in bands:
        area = (low**2, high**2)
        own = ~ground_truth.crowd & (ground_truth.areas >= area[0]) & (ground_truth.areas <= area[1])
        if not own.any() and name not in ("s", "m", "l"):
            continue
        matches = split_by_class(split.truth, match_area(split.matching, area), area)
        precision = average_precision(matches, split.weights, track=split.track(f"AP {name} px"))
        recall = _ratio(split.sums(split.truth_images[own & found_in_use]), split.sums(split.truth_images[own]))
        measured.append(
            Band(
                name=name,
                low=low,
                high=None if high == NO_LIMIT else high,
                num_truths=int(np.count_nonzero(own)),
                ap=describe_figure(mean_over_classes(precision.mean(axis=2))),
                ap50=describe_figure(mean_over_classes(precision[:, :, IOU_50])),
                recall=Figure(None) if split.thresholds is None else describe_figure(recall),
            )
        )
    return measured


def measure_errors(split: JudgedSplit) -> Errors:
    """Errors by kind, and the verdict on every detection and truth."""
    matching, verdicts = split.matching, split.verdicts
    matches = mended_matches(split.truth, matching, verdicts)
    precision = average_precision(matches, split.weights, track=split.track("errors"))  # [1 + B, K, V]
    ap50 = {name: mean_over_classes(precision[:, :, v]) for v, name in enumerate(VARIANTS)}
    gains = {name: describe_figure(values - ap50[None]) for name, values in ap50.items()}
    counts = count_errors(matching, verdicts, np.ones(len(matching.rows), dtype=bool))
    in_use = count_errors(matching, verdicts, split.in_use) if split.thresholds is not None else {}
    return Errors(
        ap50=describe_figure(ap50[None]),
        kinds={kind: ErrorFigures(gains[kind], counts[kind], in_use.get(kind)) for kind in ERROR_KINDS},
        false_positives=gains["false positives"],
        false_negatives=gains["false negatives"],
        detections=judged_detections(split),
        truths=judged_truths(split),
    )


def measure_confusion(split: JudgedSplit) -> Confusion | None:
    """The confusion matrix at the working point; None without one."""
    if split.thresholds is None:
        return None
    numbers = [split.matching.ground_truth.categories[category["id"]] for category in split.truth["categories"]]
    return Confusion(split.class_names, confuse(split.matching, split.verdicts, split.in_use, numbers))


def _figures_in_use(split: JudgedSplit, own: NDArray[np.bool_], own_truths: NDArray[np.bool_]) -> list[Figure]:
    """Precision, recall and F1 at the working point of some detections [D] and annotations [G]."""
    if split.thresholds is None:
        return [Figure(None)] * 3
    kept = own & split.in_use & ~split.matching.ignored[IOU_50]
    right = split.matching.right[IOU_50]
    true, false = split.sums(split.images[kept & right]), split.sums(split.images[kept & ~right])
    truths = split.sums(split.truth_images[own_truths & ~split.matching.ground_truth.crowd])
    return [describe_figure(values) for values in figures_of(true, false, truths)]


def _average_recall(split: JudgedSplit, matches: Sequence[ClassMatches]) -> Numbers:
    """[1 + B] mean over IoUs and classes of the recall of all detections."""
    recalls = np.full((len(split.weights), len(matches)), np.nan)
    weights = split.shares
    for k, one in enumerate(matches):
        found = np.stack([np.bincount(one.images[right], minlength=weights.shape[1]) for right in one.right], axis=1)
        recalls[:, k] = _ratio((weights @ found).mean(axis=1), weights @ one.num_truths)
    return mean_over_classes(recalls)


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        return part / whole
