"""Rules from the errors of a detector to a parameter. docs/evaluate.md gives the reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.evaluate.proposals import Advice, finest, gain_of, value_of
from pipeline.params import Params
from pipeline.params.editing import as_command
from retinanet.evaluation.analysis import Analysis, Band

LEAST_GAIN = 0.02  # AP50: what a fault costs at least for advice on it
FEW = 10  # objects of a size that say something
SMALL_GAP = 0.15  # how much lower the recall of small objects is
THRESHOLD_GAP = 0.15  # recall of all detections over that at the working point


def small_objects(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """Objects are missed, and more of the small ones than of the others."""
    bands = [band for band in finest(analysis.bands) if band.num_truths >= FEW and _rate(band) is not None]
    gain = gain_of(analysis, "missed")
    if len(bands) < 2 or gain < LEAST_GAIN:
        return
    smallest, others = bands[0], bands[1:]
    weights = [band.num_truths for band in others]
    rest = float(np.average([_rate(band) or 0.0 for band in others], weights=weights))
    if rest - (_rate(smallest) or 0.0) < SMALL_GAP:
        return
    name = f"under {smallest.high:g} px" if smallest.low == 0 else f"of {smallest.low:g} to {smallest.high or 0:g} px"
    transforms = params.transforms
    short = transforms.short_side if isinstance(transforms.short_side, int) else max(transforms.short_side)
    larger = {
        "transforms.short_side": _to_step(1.5 * short, transforms.size_divisor),
        "transforms.long_side": _to_step(1.5 * transforms.long_side, transforms.size_divisor),
    }
    commands = [as_command(larger)]
    if params.anchors.mode == "fixed":
        commands.append(as_command({"anchors.mode": "fitted"}))
    if transforms.tiles is None:
        commands.append(as_command({"transforms.tiles": {"size": short, "overlap": 0.2, "min_visible": 0.25}}))
    yield Advice(
        "small objects",
        gain + 0.001,  # before the rule on missed objects of any size
        f"Objects {name} are found much less often than larger ones ({_rate(smallest) or 0:.2f} against {rest:.2f}).",
        "Let the network see them larger (transforms.short_side and long_side; transforms.tiles for large pictures). "
        "Give them anchors of their size (anchors.mode: fitted).",
        commands,
    )


def missed_objects(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """Objects are missed, of all sizes."""
    gain = gain_of(analysis, "missed")
    if gain < LEAST_GAIN or next(small_objects(analysis, params), None) is not None:
        return
    larger = {"resnet18": "resnet34", "resnet34": "resnet50", "resnet50": "resnet101"}.get(params.model.backbone)
    commands = [as_command({"train.epochs": 2 * params.train.epochs})]
    if params.model.weights is None and params.model.norm != "frozen_batch":
        commands.append(as_command({"model.weights": "imagenet", "model.norm": "frozen_batch"}))
    elif larger is not None and params.model.weights == "imagenet":  # other weights fit one backbone
        commands.append(as_command({"model.backbone": larger}))
    yield Advice(
        "missed objects",
        gain,
        f"Objects of all sizes are missed, which costs {gain:.2f} AP50.",
        "Train longer (train.epochs), start from pretrained weights (model.weights) or take a larger backbone "
        "(model.backbone). Whether the anchors reach all objects, python -m pipeline.anchor_stats says.",
        commands,
    )


def confused_classes(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """Boxes are right and classes are wrong."""
    gain = gain_of(analysis, "classification")
    if gain < LEAST_GAIN or len(analysis.class_names) < 2:
        return
    pair = _most_confused(analysis)
    between = f", most often {pair[0]} for {pair[1]} ({pair[2]} times)" if pair else ""
    classes = f"{pair[1]} and {pair[0]}" if pair else "these classes"
    yield Advice(
        "confused classes",
        gain,
        f"Objects are found but get the wrong class, which costs {gain:.2f} AP50{between}.",
        f"Look at the labels of {classes} before anything else, then add pictures of the rarer one. "
        "train.repeat_threshold shows pictures of rare classes more often.",
        [as_command({"train.repeat_threshold": 0.5 if params.train.repeat_threshold is None else 1.0})],
    )


def poor_boxes(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """Objects are found with their class, but the boxes are off."""
    gain = gain_of(analysis, "localisation")
    if gain < LEAST_GAIN:
        return
    settings: list[dict[str, Any]] = []
    if params.loss.box_loss in ("smooth_l1", "l1"):
        settings.append({"loss.box_loss": "giou"})
    settings.append({"loss.box_weight": 2 * params.loss.box_weight or 1.0})
    if params.matcher.foreground_iou < 0.6:
        settings.append({"matcher.foreground_iou": 0.6, "matcher.background_iou": 0.5})
    yield Advice(
        "poor boxes",
        gain,
        f"Objects are found with boxes that do not reach IoU 0.5, which costs {gain:.2f} AP50.",
        "Train on the overlap itself (loss.box_loss: giou). Or weigh the box loss more (loss.box_weight), or let only "
        "anchors that fit better learn boxes (matcher.foreground_iou).",
        [as_command(one) for one in settings],
    )


def false_alarms(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """Detections where nothing is."""
    gain = gain_of(analysis, "background")
    if gain < LEAST_GAIN:
        return
    commands = [as_command({"evaluate.working_point": {"precision": 0.9}})]
    alpha = params.loss.alpha
    if isinstance(alpha, float) and 0 < alpha < 1:
        commands.append(as_command({"loss.alpha": round(alpha / 2, 3)}))
    if params.loss.gamma < 3:
        commands.append(as_command({"loss.gamma": params.loss.gamma + 0.5}))
    yield Advice(
        "false alarms",
        gain,
        f"Detections where nothing is cost {gain:.2f} AP50.",
        "Use a higher threshold (evaluate.working_point), which needs no training. To learn better, weigh foreground "
        "less (loss.alpha) and hard background more (loss.gamma), and add pictures without objects that look like "
        "those where it errs.",
        commands,
    )


def duplicates(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """Several boxes for one object."""
    gain = gain_of(analysis, "duplicate")
    if gain < LEAST_GAIN:
        return
    yield Advice(
        "duplicates",
        gain,
        f"Objects are found several times, which costs {gain:.2f} AP50.",
        "Suppress boxes that overlap less (postprocess.nms_iou); only evaluate runs again.",
        [as_command({"postprocess.nms_iou": round(max(0.1, params.postprocess.nms_iou - 0.1), 2)})],
    )


def strict_threshold(analysis: Analysis, params: Params) -> Iterator[Advice]:
    """The detector finds objects that its working point leaves out."""
    recall, known = value_of(analysis, "recall"), [one for one in analysis.classes if one.max_recall.value is not None]
    if recall is None or not known or params.evaluate.working_point != "f1":
        return
    weights = [one.num_truths for one in known]
    if not sum(weights):
        return
    most = float(np.average([one.max_recall.value or 0.0 for one in known], weights=weights))
    if most - recall < THRESHOLD_GAP:
        return
    target = min(0.95, math.floor(100 * (recall + most) / 2) / 100)
    yield Advice(
        "strict threshold",
        0.0,
        f"At its working point the detector finds {100 * recall:.0f} % of the objects; its weaker detections "
        f"hold {100 * most:.0f} %.",
        "If a missed object costs you more than a false alarm, ask for a recall (evaluate.working_point); nothing is "
        "trained.",
        [as_command({"evaluate.working_point": {"recall": target}})],
    )


def _rate(band: Band) -> float | None:
    """Recall at the working point; without one, AP50."""
    return band.ap50.value if band.recall.value is None else band.recall.value


def _to_step(side: float, step: int) -> int:
    return max(step, round(side / step) * step)


def _most_confused(analysis: Analysis) -> tuple[str, str, int] | None:
    """Detected as, true class, how often; None without a confusion matrix or an error in it."""
    if analysis.confusion is None:
        return None
    counts = analysis.confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    if not counts.any():
        return None
    truth, detected = np.unravel_index(counts.argmax(), counts.shape)
    names = analysis.confusion.class_names
    return names[int(detected)], names[int(truth)], int(counts[truth, detected])


RULES: tuple[Callable[[Analysis, Params], Iterator[Advice]], ...] = (
    small_objects,
    missed_objects,
    confused_classes,
    poor_boxes,
    false_alarms,
    duplicates,
    strict_threshold,
)
