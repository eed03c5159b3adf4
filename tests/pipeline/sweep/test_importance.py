"""Laws of the importance of parameters: what decides AP has it beyond chance, and few settings give none."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.sweep.importance import BEST, CHANCE, LEAST, measure_importances
from pipeline.sweep.plots import Point, study_of

BASE = {"a.x": 0.5, "a.y": 0.5, "a.z": "l1"}


def study_with(count: int, **space: Any) -> tuple[optuna.Study, list[str]]:
    """AP depends on a.x alone, by a parabola around 0.7."""
    generator = np.random.default_rng(3)
    points = []
    for x, y, z in generator.random((count, 3)).tolist():
        settings = {"a.x": x, "a.y": y, "a.z": "giou" if z > 0.5 else "l1"}
        points.append(Point(settings, 0.5 - (x - 0.7) ** 2, whole=True))
    return study_of(points, BASE, space)


def test_the_parameter_that_decides_ap_has_the_importance_beyond_chance() -> None:
    found = measure_importances(*study_with(30))
    assert found[0].name == "a.x" and sum(one.share for one in found) == pytest.approx(1.0)
    chances = {one.name: one.chance for one in found}
    assert chances["a.x"] <= CHANCE < min(chances["a.y"], chances["a.z"])
    assert measure_importances(*study_with(30)) == found  # the shuffles are always the same ones


def test_trials_that_were_stopped_early_change_nothing_as_long_as_they_are_not_among_the_best() -> None:
    study, names = study_with(30)
    lower = optuna.create_study(direction="maximize")
    ranked = sorted((trial.value or 0.0 for trial in study.trials), reverse=True)
    for trial in study.trials:
        score = (trial.value or 0.0) - (0.0 if (trial.value or 0.0) >= ranked[BEST - 1] else 0.3)
        known = {"params": trial.params, "distributions": trial.distributions}
        lower.add_trial(optuna.trial.create_trial(value=score, **known))
    assert measure_importances(lower, names) == measure_importances(study, names)


def test_importance_is_of_being_among_the_five_best() -> None:
    """a.x decides who is among them, a.y who is among the worst; the order among the best decides nothing."""
    generator = np.random.default_rng(3)
    rows = [(n / 30, y) for n, y in enumerate(generator.permutation(30).tolist())]
    scores = [0.5 + x / 9 if x > 24.5 / 30 else 0.3 - y / 200 for x, y in rows]
    turned = [0.5 - x / 9 if x > 24.5 / 30 else 0.3 - y / 200 for x, y in rows]
    shares = []
    for aps in (scores, turned):
        points = [Point({"a.x": x, "a.y": float(y)}, ap, whole=True) for (x, y), ap in zip(rows, aps, strict=True)]
        found = measure_importances(*study_of(points, BASE, {}))
        assert found[0].name == "a.x"
        shares.append([one.share for one in found])
    assert shares[0] == shares[1]


def test_few_settings_or_one_parameter_have_no_importance() -> None:
    assert measure_importances(*study_with(LEAST - 1)) == [] != measure_importances(*study_with(LEAST))
    study, _ = study_with(30)
    assert measure_importances(study, ["a.x"]) == []
    same = [Point({"a.x": n / 20, "a.y": n / 30}, 0.0, whole=True) for n in range(20)]
    assert measure_importances(*study_of(same, BASE, {})) == []  # every setting is as good as the best


def test_the_axis_of_a_logarithmic_range_is_logarithmic() -> None:
    study, _ = study_with(12, **{"a.x": {"loguniform": [0.001, 1.0]}})
    logs = {name: getattr(space, "log", None) for name, space in study.trials[0].distributions.items()}
    assert logs == {"a.x": True, "a.y": False, "a.z": None}
