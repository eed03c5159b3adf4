"""Pictures of a sweep, drawn by Optuna: parallel coordinates, AP against each parameter, a pair's map, importance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot as plt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.visualization import matplotlib as drawn

from pipeline.outs import write_whole
from pipeline.params import flatten
from pipeline.sweep.space import encode

Scored = Sequence[tuple[Mapping[str, Any], float]]
"""Settings with their mean AP."""

LEAST = 4  # settings without which an importance means nothing
PAIR = ("loss.alpha", "loss.gamma")


def draw_plots(scored: Scored, plan: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write plots/sweep_*.png; those that these trials cannot fill are left out.

    Args:
        plan: what sweep.json holds.
    """
    mpl.use("Agg")
    study, names = study_of(scored, flatten(plan["params"]))
    paths = []
    for name, draw in pictures(study, names):
        path = folder / f"sweep_{name}.png"
        write_whole(path, lambda temporary, draw=draw: save(draw, temporary))  # type: ignore[misc]
        paths.append(path)
    return paths


def study_of(scored: Scored, base: Mapping[str, Any]) -> tuple[optuna.Study, list[str]]:
    """The trials as Optuna's, and the names of the parameters that vary; what a setting leaves out is the base's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = sorted({name for settings, _ in scored for name in settings})
    rows = [{name: encode(settings.get(name, base[name])) for name in names} for settings, _ in scored]
    spaces = {name: range_of([row[name] for row in rows]) for name in names}
    varying = [name for name in names if not spaces[name].single()]
    study = optuna.create_study(direction="maximize")
    for row, (_, score) in zip(rows, scored, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: as_coordinate(row[name], spaces[name]) for name in varying},
                distributions={name: spaces[name] for name in varying},
                value=score,
            )
        )
    return study, varying


def range_of(values: Sequence[Any]) -> BaseDistribution:
    """The range of numbers, or the choices of anything else."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(sorted({str(value) for value in values}))


def as_coordinate(value: Any, space: BaseDistribution) -> Any:
    """A value as its axis has it."""
    return float(value) if isinstance(space, FloatDistribution) else str(value)


def pictures(study: optuna.Study, names: list[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and drawing of each picture that the trials can fill."""
    if not names:
        return
    yield "slices", lambda: drawn.plot_slice(study, params=names, target_name="AP")
    if len(names) > 1:
        yield "parallel", lambda: drawn.plot_parallel_coordinate(study, params=names, target_name="AP")
    if len(study.trials) >= LEAST and len(names) > 1:
        evaluator = PedAnovaImportanceEvaluator()
        weights = get_param_importances(study, evaluator=evaluator)
        pair = list(PAIR) if set(PAIR) <= set(names) else sorted(names, key=lambda name: -weights.get(name, 0.0))[:2]
        yield "map", lambda: drawn.plot_contour(study, params=pair, target_name="AP")
        yield "importance", lambda: drawn.plot_param_importances(study, evaluator=evaluator, target_name="AP")


def save(draw: Callable[[], Any], path: Path) -> None:
    """Draw with Optuna and write a PNG file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its matplotlib drawings experimental
        axes = draw()
    first = np.ravel(np.asarray(axes, dtype=object))[0]
    figure = first.figure
    figure.set_size_inches(max(8.0, figure.get_size_inches()[0]), 5.0)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
