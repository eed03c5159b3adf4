"""Plots of a sweep: AP against each parameter; with Optuna, parallel coordinates, contours and importance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot as plt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.visualization import matplotlib as drawn

from pipeline.storage.outs import write_atomic
from pipeline.sweep.charts import draw_importances
from pipeline.sweep.importance import Importance
from pipeline.sweep.space import encode


class Point(NamedTuple):
    """A setting in the plots.

    Attributes:
        score: mean AP over its seeds.
        whole: trained to the end, not stopped early.
    """

    settings: Mapping[str, Any]
    score: float
    whole: bool


LEAST = 4  # minimum number of settings for a map
PAIR = ("loss.alpha", "loss.gamma")


def draw_plots(
    study: optuna.Study, names: Sequence[str], whole: Sequence[bool], importances: Sequence[Importance], folder: Path
) -> list[Path]:
    """Write plots/sweep_*.png, except plots for which there are too few trials.

    Args:
        study, names: of study_of; whether each trial was trained to its end.
    """
    mpl.use("Agg")
    paths = []
    for name, draw in pictures(study, names, whole, importances):
        path = folder / f"sweep_{name}.png"
        write_atomic(path, lambda temporary, draw=draw: save(draw, temporary))  # type: ignore[misc]
        paths.append(path)
    return paths


def study_of(
    points: Sequence[Point], base: Mapping[str, Any], space: Mapping[str, Mapping[str, Any]]
) -> tuple[optuna.Study, list[str]]:
    """Return an Optuna study of the trials, and the parameters that vary; missing ones have the base's values.

    Args:
        space: of the sweep, which says whose axis is logarithmic.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = sorted({name for point in points for name in point.settings})
    rows = [{name: encode(point.settings.get(name, base[name])) for name in names} for point in points]
    spaces = {name: range_of([row[name] for row in rows], log="loguniform" in space.get(name, {})) for name in names}
    varying = [name for name in names if not spaces[name].single()]
    study = optuna.create_study(direction="maximize")
    for row, point in zip(rows, points, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: as_coordinate(row[name], spaces[name]) for name in varying},
                distributions={name: spaces[name] for name in varying},
                value=point.score,
            )
        )
    return study, varying


def range_of(values: Sequence[Any], *, log: bool = False) -> BaseDistribution:
    """Return the range of numbers, or the choices of other values."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(min(values), max(values), log=log and min(values) > 0)
    return CategoricalDistribution(sorted({str(value) for value in values}))


def as_coordinate(value: Any, space: BaseDistribution) -> Any:
    """Convert a value for its axis."""
    return float(value) if isinstance(space, FloatDistribution) else str(value)


def pictures(
    study: optuna.Study, names: Sequence[str], whole: Sequence[bool], importances: Sequence[Importance]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield name and drawing function of each plot with enough trials."""
    if not names:
        return
    yield "slices", lambda: draw_slices(study, names, whole)
    if len(names) > 1:
        yield "parallel", lambda: drawn.plot_parallel_coordinate(study, params=list(names), target_name="AP")
    if len(study.trials) >= LEAST and len(names) > 1:
        ranked = [one.name for one in importances] or list(names)
        pair = list(PAIR) if set(PAIR) <= set(names) else ranked[:2]
        yield "map", lambda: drawn.plot_contour(study, params=pair, target_name="AP")
    if importances:
        yield "importance", lambda: draw_importances(importances).axes


def draw_slices(study: optuna.Study, names: Sequence[str], whole: Sequence[bool]) -> Any:
    """Draw AP against each parameter, one panel each; trials stopped by the scheduler are hollow."""
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.2 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for is_whole, label in ((True, "whole training"), (False, "stopped early")):
            trials = [trial for trial, flag in zip(study.trials, whole, strict=True) if flag == is_whole]
            x, y = [trial.params[name] for trial in trials], [trial.value for trial in trials]
            axis.scatter(x, y, facecolors="tab:blue" if is_whole else "none", edgecolors="tab:blue", label=label)
        axis.set_xlabel(name)
        if getattr(study.trials[0].distributions[name], "log", False):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylabel("AP on val")
    axes[0, 0].legend(loc="lower right", fontsize="small")
    return axes


def save(draw: Callable[[], Any], path: Path) -> None:
    """Draw with Optuna and write a PNG file."""
    # Optuna chooses a style for all that is drawn later, and calls its drawings experimental.
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = draw()
    first = np.ravel(np.asarray(axes, dtype=object))[0]
    figure = first.figure
    if figure.get_layout_engine() is None:  # figures made by Optuna, which are small
        figure.set_size_inches(10.0, 5.5)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
