"""Which parameters decide whether a setting is among the best: PED-ANOVA (Watanabe et al. 2023), with a test of chance.

It compares where the best settings lie with where all lie. It uses ranks alone, so trials that a scheduler stopped do
not mislead it: they are not among the best. fANOVA explains the values of AP, and theirs are those of fewer epochs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

LEAST = 10  # settings: with 5 among the best, which Optuna recommends at least, these are half of all
BEST = 5
CHANCE = 0.05  # share of the shuffles below which an importance is hardly chance
SHUFFLES = 200
SEED = 0


class Importance(NamedTuple):
    """Importance of a parameter.

    Attributes:
        share: of the importance of all parameters, 0..1.
        chance: share of shuffles of AP over the settings that give the parameter as much importance (a permutation
            test, as Altmann et al. 2010 do for importances).
    """

    name: str
    share: float
    chance: float


def measure_importances(study: optuna.Study, names: Sequence[str]) -> list[Importance]:
    """Return the importances, the largest first; empty for too few settings or fewer than two parameters."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < LEAST or len(names) < 2:
        return []
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, BEST / len(trials)))
    losses = np.array([-float(trial.value or 0.0) for trial in trials])

    def measure(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = get_param_importances(
            study,
            evaluator=evaluator,
            params=list(names),
            target=lambda trial: float(values[trial.number]),
            normalize=False,
        )
        return np.array([found[name] for name in names])

    generator = np.random.default_rng(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna says that it takes low values of a target for good ones, as they are
        own = measure(losses)
        shuffled = np.array([measure(generator.permutation(losses)) for _ in range(SHUFFLES)])
    if not own.sum() > 0:
        return []
    chances = (1 + (shuffled >= own).sum(axis=0)) / (1 + SHUFFLES)
    found = [Importance(*row) for row in zip(names, (own / own.sum()).tolist(), chances.tolist(), strict=True)]
    return sorted(found, key=lambda one: -one.share)
