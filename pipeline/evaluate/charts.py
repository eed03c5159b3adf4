"""Charts of reports/evaluate.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.evaluate.proposals import finest
from pipeline.pages.charts import BLUE, GREEN, GREY, INK, ORANGE, RED, as_label, draw_bars, new_chart, style
from pipeline.reports.curves import name_few, rank_curves
from pipeline.reports.training_curves import curve_of, curves_of_classes
from retinanet.evaluation.analysis import Band, Calibration, Errors, Figure
from retinanet.evaluation.coco_eval import PrecisionRecallPoint
from retinanet.evaluation.score_matches import ThresholdPoint

if TYPE_CHECKING:
    from matplotlib import figure

CURVES_NAMED = 3  # of more than twice as many classes, the best and the worst are named
NAME_SHOWN = 24  # characters of a class name, of which two stand side by side in a legend
KIND_NAMES = {
    "missed": "missed",
    "background": "nothing there",
    "localisation": "badly placed",
    "classification": "wrong class",
    "both": "wrong class and place",
    "duplicate": "found twice",
}


def interval(value: Figure) -> tuple[float, float] | None:
    """Its ends, if it was resampled."""
    return None if value.low is None or value.high is None else (value.low, value.high)


def draw_precision_recall(points: Sequence[PrecisionRecallPoint]) -> figure.Figure:
    """A curve per class at IoU 0.5."""
    curves, ap50, named = rank_curves(points, num_named=CURVES_NAMED)
    chart, axes = new_chart()
    for name, curve in curves.items():
        line: dict[str, Any] = {"color": GREY, "linewidth": 1, "zorder": 1}
        if name in named:
            line = style(named.index(name)) | {"label": as_label(f"{name}  {ap50[name]:.2f}")}
        axes.plot([point.recall for point in curve], [point.precision for point in curve], **line)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.03))
    if named:
        axes.legend(title="AP50" if len(named) == len(curves) else "AP50, best and worst", loc="lower left", fontsize=9)
    return chart


def draw_thresholds(points: Sequence[ThresholdPoint], threshold: float | None) -> figure.Figure:
    """Precision, recall and F1 of all classes together over the score threshold.

    Args:
        threshold: a working point to mark.
    """
    chart, axes = new_chart()
    own = [point for point in points if point.class_name == points[-1].class_name]
    for index, key in enumerate(("precision", "recall", "f1")):
        values = [getattr(point, key) for point in own]
        axes.plot([point.threshold for point in own], values, **style(index), label=key.replace("f1", "F1"))
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=":")
        axes.annotate(" working point", (threshold, 0.02), fontsize=9)
    axes.set(xlabel="score threshold", xlim=(0, 1.005), ylim=(0, 1.03))
    if own:
        chart.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return chart


def draw_errors(errors: Errors) -> figure.Figure:
    """The AP50 that mending each kind of error would bring, the largest first."""
    kinds = rank_kinds(errors)
    chart, axes = new_chart(height=3.1)
    gains = [errors.kinds[kind].ap50_gain for kind in kinds]
    names = [KIND_NAMES[kind] for kind in kinds]
    draw_bars(axes, names, [gain.value or 0.0 for gain in gains], [interval(gain) for gain in gains], colour=RED)
    axes.set_xlabel("AP50 gained if this alone were mended")
    return chart


def rank_kinds(errors: Errors) -> list[Any]:
    """The kinds of error, the one that costs most first."""
    return sorted(errors.kinds, key=lambda kind: -(errors.kinds[kind].ap50_gain.value or 0.0))


def draw_bands(bands: Sequence[Band]) -> figure.Figure:
    """AP of objects by size."""
    known = [band for band in finest(bands) if band.ap.value is not None]
    chart, axes = new_chart(height=0.9 + 0.42 * max(2, len(known)))
    names = [f"{describe_band(band)} ({band.num_truths})" for band in known]
    draw_bars(axes, names, [band.ap.value or 0.0 for band in known], [interval(band.ap) for band in known])
    axes.set_xlabel("AP by size of the object (objects)")
    axes.set_xlim(0, 1.12)
    return chart


def describe_band(band: Band) -> str:
    """`16 to 32 px`."""
    return f"from {band.low:g} px" if band.high is None else f"{band.low:g} to {band.high:g} px"


def draw_calibration(calibration: Calibration) -> figure.Figure:
    """Precision over score, with the diagonal of a calibrated detector and the number of detections as bars."""
    chart, axes = new_chart()
    counts = axes.twinx()
    most = max([one.count for one in calibration.bins], default=0)
    for one in calibration.bins:
        counts.bar((one.low + one.high) / 2, one.count, width=0.9 * (one.high - one.low), color=GREY, zorder=0)
    counts.set_ylim(0, 4 * max(1, most))
    counts.set_yticks([])
    axes.set_zorder(counts.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="calibrated")
    _draw_bins(axes, calibration.bins, color=BLUE, marker="o", label=calibration.labels[0])
    if calibration.bins_with_temperature:
        fitted = {"color": ORANGE, "marker": "s", "linestyle": "--", "label": calibration.labels[1]}
        _draw_bins(axes, calibration.bins_with_temperature, **fitted)
    axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.03))
    axes.legend(loc="upper left", fontsize=9)
    return chart


def _draw_bins(axes: Any, bins: Sequence[Any], **line: Any) -> None:
    known = [one for one in bins if one.count]
    axes.plot([one.score for one in known], [one.precision for one in known], linewidth=2, **line)


def draw_learning(history: Sequence[Mapping[str, float | None]]) -> figure.Figure:
    """Losses of training and validation, and AP on val, over the epochs."""
    chart, axes = new_chart()
    _draw_series(axes, history, "loss", color=INK, label="loss, training")
    _draw_series(axes, history, "val_loss", color=INK, linestyle=":", marker="x", label="loss, val")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    scores = axes.twinx()
    _draw_series(scores, history, "AP", color=RED, marker="o", label="AP, val")
    _draw_series(scores, history, "AP50", color=GREEN, linestyle="--", marker="s", label="AP50, val")
    scores.set(ylim=(0, 1), ylabel="AP")
    scores.spines["top"].set_visible(False)
    lines = [line for panel in (axes, scores) for line in panel.get_lines()]
    chart.legend(handles=lines, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return chart


def draw_classes(history: Sequence[Mapping[str, float | None]]) -> figure.Figure:
    """AP of each class on val over the epochs; of many classes the best and the worst are named."""
    curves = curves_of_classes(history)
    last = {name: curve[-1][1] for name, curve in curves.items()}
    ranked, named = name_few(last, num_named=CURVES_NAMED)
    chart, axes = new_chart()
    for name in ranked:
        line: dict[str, Any] = {"color": GREY, "linewidth": 1, "zorder": 1}
        if name in named:
            short = name if len(name) <= NAME_SHOWN else f"{name[: NAME_SHOWN - 3]}..."
            line = style(named.index(name)) | {"marker": "o", "label": as_label(f"{short}  {last[name]:.2f}")}
        axes.plot(*zip(*curves[name], strict=True), **line)
    axes.set(xlabel="epoch", ylabel="AP on val", ylim=(0, 1))
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    chart.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    return chart


def draw_steps(history: Sequence[Mapping[str, float | None]]) -> figure.Figure:
    """Learning rate, and mean and maximum of the gradient norm before clipping, over the epochs."""
    chart, axes = new_chart()
    _draw_series(axes, history, "grad_norm", color=BLUE, marker="o", label="gradient norm, mean")
    _draw_series(axes, history, "grad_norm_max", color=BLUE, linestyle=":", marker="^", label="maximum")
    axes.set(xlabel="epoch", ylabel="gradient norm", yscale="log")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    rates = axes.twinx()
    _draw_series(rates, history, "lr", color=ORANGE, linestyle="--", marker="s", label="learning rate")
    rates.set(ylabel="learning rate")
    rates.set_ylim(bottom=0)
    rates.spines["top"].set_visible(False)
    lines = [line for panel in (axes, rates) for line in panel.get_lines()]
    chart.legend(handles=lines, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return chart


def _draw_series(axes: Any, history: Sequence[Mapping[str, float | None]], key: str, **line: Any) -> None:
    known = curve_of(history, key)
    if known:
        axes.plot(*zip(*known, strict=True), linewidth=2, **line)
