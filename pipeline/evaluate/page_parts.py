"""Tables and charts of reports/evaluate.html, from an analysis; figures are texts here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluate import charts
from pipeline.evaluate.charts import KIND_NAMES, rank_kinds
from pipeline.evaluate.proposals import Row
from pipeline.pages.charts import Chart
from pipeline.pages.rendering import figure_uri
from pipeline.reports.training_curves import curve_of, curves_of_classes
from retinanet.evaluation.analysis import Analysis, Figure
from retinanet.evaluation.coco_eval import PrecisionRecallPoint
from retinanet.evaluation.score_matches import ThresholdPoint
from retinanet.evaluation.working_point import Target, describe_target

DASH = "-"
CONFUSION_SHOWN = 15
TILES = {
    "AP": "mean over IoU 0.5 to 0.95",
    "AP50": "at IoU 0.5",
    "AP75": "at IoU 0.75: do the boxes fit?",
    "APs": "objects under 32 x 32 px",
    "APm": "objects of 32 to 96 px",
    "APl": "objects from 96 x 96 px",
    "precision": "share of the detections in use that are right",
    "recall": "share of the objects that are found",
    "F1": "harmonic mean of precision and recall",
}
MEANINGS = {
    "missed": "an object without a detection on it",
    "background": "a detection where no object is",
    "localisation": "the right class, but IoU of 0.1 to 0.5",
    "classification": "on an object of another class",
    "both": "another class, and IoU of 0.1 to 0.5",
    "duplicate": "an object that a surer detection has found",
}


def show(value: float | None, digits: int = 3) -> str:
    """A figure as text."""
    return DASH if value is None or math.isnan(value) else f"{value:z.{digits}f}"


def show_interval(figure: Figure, digits: int = 3) -> str:
    """`0.603 to 0.668`; empty where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:.{digits}f} to {figure.high:.{digits}f}"


def figure_tiles(analysis: Analysis) -> list[dict[str, str]]:
    """The figures of all classes together; those that are undefined are left out, but for AP."""
    known = {name: analysis.overall.get(name, Figure(None)) for name in TILES}
    return [
        {"name": name, "value": show(figure.value), "interval": show_interval(figure), "meaning": TILES[name]}
        for name, figure in known.items()
        if figure.value is not None or name == "AP"
    ]


def class_rows(analysis: Analysis) -> list[dict[str, str]]:
    """The figures of each class, the lowest AP first, those without objects last."""
    ranked = sorted(analysis.classes, key=lambda one: (one.ap.value is None, one.ap.value or 0.0))
    return [
        {
            "name": one.name,
            "truths": str(one.num_truths),
            "ap": show(one.ap.value),
            "interval": show_interval(one.ap, 2),
            "ap50": show(one.ap50.value),
            "ap75": show(one.ap75.value),
            "precision": show(one.precision.value),
            "recall": show(one.recall.value),
            "f1": show(one.f1.value),
            "most": show(one.max_recall.value),
            "threshold": show(one.threshold),
        }
        for one in ranked
    ]


def condition_rows(analysis: Analysis) -> list[dict[str, str]]:
    """The figures of each value of a column of the data set, column by column, the lowest AP first."""
    ranked = sorted(analysis.conditions, key=lambda one: (one.column, one.ap.value is None, one.ap.value or 0.0))
    return [
        {
            "column": one.column,
            "value": one.value,
            "images": str(one.num_images),
            "truths": str(one.num_truths),
            "ap": show(one.ap.value),
            "interval": show_interval(one.ap, 2),
            "ap50": show(one.ap50.value),
        }
        for one in ranked
    ]


def error_rows(analysis: Analysis, kinds: Collection[str]) -> list[dict[str, Any]]:
    """The kinds of error, the costliest first.

    Args:
        kinds: of which the page has pictures.
    """
    if analysis.errors is None:
        return []
    rows = []
    for kind in rank_kinds(analysis.errors):
        one = analysis.errors.kinds[kind]
        count = one.count if one.count_in_use is None else one.count_in_use
        row = {"kind": kind, "name": KIND_NAMES[kind], "gain": show(one.ap50_gain.value), "count": str(count)}
        rows.append(row | {"meaning": MEANINGS[kind], "has_cards": kind in kinds})
    return rows


def confusion_table(analysis: Analysis, cards: Collection[tuple[str, int]]) -> dict[str, Any] | None:
    """The confusion matrix, of many classes only those with most errors; None without one or without objects.

    Args:
        cards: kinds of error and labels of which the page has pictures.
    """
    if analysis.confusion is None or not analysis.confusion.counts.any():
        return None
    counts, names = analysis.confusion.counts, analysis.confusion.class_names
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    errors = wrong[:-1, :-1].sum(axis=1) + wrong[:-1, :-1].sum(axis=0)
    order = np.argsort(-errors, kind="stable")[:CONFUSION_SHOWN] if len(names) > CONFUSION_SHOWN else range(len(names))
    shown = [*sorted(int(k) for k in order), len(names)]
    rows = []
    for i in shown:
        total = max(1, int(counts[i].sum()))
        cells = [_cell(int(counts[i, j]), i, j, background=len(names), total=total, cards=cards) for j in shown]
        rows.append({"name": "nothing" if i == len(names) else names[i], "cells": cells})
    columns = [*(names[k] for k in shown[:-1]), "not detected"]
    return {"rows": rows, "columns": columns, "shown": len(shown) - 1, "all": len(names)}


def _cell(
    count: int, truth: int, detected: int, *, background: int, total: int, cards: Collection[tuple[str, int]]
) -> dict[str, Any]:
    kind, label = "classification", truth
    if truth == background:
        kind, label = "background", detected
    elif detected == background:
        kind = "missed"
    right = truth == detected
    return {
        "count": None if right and truth == background else count,
        "share": f"{count / total:.2f}",
        "right": right,
        "kind": None if right or (kind, label) not in cards else kind,
        "label": label,
    }


def threshold_part(
    analysis: Analysis,
    curves: Sequence[ThresholdPoint],
    overall: float | None,
    target: Target,
    *,
    given_on: str | None = None,
) -> dict[str, Any]:
    """The section on the working point.

    Args:
        given_on: the split on which the thresholds of another detector were chosen; None: ours, chosen on val.
    """
    chart = None
    if curves:
        caption = "All classes together at one threshold: precision rises and recall falls as it is raised."
        alt = "Precision, recall and F1 over the score threshold"
        chart = Chart(figure_uri(charts.draw_thresholds(curves, overall)), alt, caption)
    rows = [row for row in class_rows(analysis) if row["threshold"] != DASH]
    best = describe_target(target)
    if not rows:
        text = "There is no working point; of our own models, a training stores one. Choose a threshold from the curve."
    elif given_on is not None:
        text = (
            f"At the thresholds below, one for each class. They give the {best} on {given_on}, which chose them "
            "itself, so the figures at them are a little too good."
        )
    else:
        text = (
            f"At the thresholds below, one for each class. They give the {best} on val; predict and the served model "
            "take them from the model file. The figures are those of the split that was evaluated."
        )
    return {"chart": chart, "classes": rows, "text": text}


def draw_charts(
    analysis: Analysis, curves: Sequence[PrecisionRecallPoint], history: Sequence[Row]
) -> Mapping[str, list[Chart]]:
    """The charts by section."""
    drawn: dict[str, list[Chart]] = {"good": [], "wrong": [], "trust": [], "run": []}
    if curves:
        caption = "Precision over recall at IoU 0.5. The nearer to the upper right corner, the better."
        uri = figure_uri(charts.draw_precision_recall(curves))
        drawn["good"].append(Chart(uri, "Precision over recall of the classes", caption))
    if any(band.ap.value is not None for band in analysis.bands):
        caption = "Size is the square root of the area, in px of the original image."
        drawn["good"].append(Chart(figure_uri(charts.draw_bands(analysis.bands)), "AP by size of the object", caption))
    if analysis.errors is not None and analysis.errors.ap50.value is not None:
        caption = "What each kind of error costs, by TIDE's definitions. They overlap, so they do not add up."
        uri = figure_uri(charts.draw_errors(analysis.errors))
        drawn["wrong"].append(Chart(uri, "AP50 that each kind of error costs", caption))
    if analysis.calibration is not None and any(one.count for one in analysis.calibration.bins):
        counted = "detections by raw score" if analysis.calibration.in_use else "detections"
        caption = f"Above the dotted line scores are too low, below it too high. Grey: number of {counted}."
        uri = figure_uri(charts.draw_calibration(analysis.calibration))
        drawn["trust"].append(Chart(uri, "Share of right detections over their score", caption))
    if history:
        caption = "Val far above training means over-fitting; AP that still rises asks for a longer training."
        drawn["run"].append(Chart(figure_uri(charts.draw_learning(history)), "Losses and AP by epoch", caption))
    if len(curves_of_classes(history)) > 1:
        caption = "AP of each class on val. A class that stays behind needs more pictures, or better labels."
        drawn["run"].append(Chart(figure_uri(charts.draw_classes(history)), "AP of the classes by epoch", caption))
    if curve_of(history, "grad_norm"):
        caption = "The gradient norm is taken before clipping. Peaks far above the mean ask for a lower learning rate."
        alt = "Learning rate and gradient norm by epoch"
        drawn["run"].append(Chart(figure_uri(charts.draw_steps(history)), alt, caption))
    return drawn


def speed_table(analysis: Analysis) -> dict[str, Any] | None:
    """Speed by batch size."""
    speed = analysis.speed
    if speed is None:
        return None
    threads = "" if speed.threads is None else f" with {speed.threads} threads"
    return {
        "device": f"{speed.device}{threads}",
        "batches": [
            {
                "size": str(one.batch_size),
                "rate": show(one.images_per_s, 1),
                "decode": show(one.decode_ms, 1),
                "network": show(one.network_ms, 1),
                "postprocess": show(one.postprocess_ms, 1),
            }
            for one in speed.batches
        ],
        "text": f"{speed.parameters / 1e6:.1f} million parameters, {speed.flops / 1e9:.1f} GFLOP for an image of "
        f"{speed.width} x {speed.height} px; ms per image.",
    }
