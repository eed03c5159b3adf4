"""What is tried next: points first, then the grid or what Optuna samples, each setting with all its seeds."""

from __future__ import annotations

import itertools
import pickle
import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from pipeline.params.sweep import Sweep
from pipeline.sweep.records import configure
from pipeline.sweep.space import Settings, decode, distributions, encode, grid_values

SCORE, EPOCH, COMPLETE = "score", "epoch", "is_complete"
"""What a trial reports: its best AP so far, the epoch it stands at, and whether its training is over, perhaps early."""

# In a row; a space in which almost nothing is allowed ends the search.
INSISTENCE, MAX_REFUSALS = 10, 200


class Sampler(Searcher):  # type: ignore[misc]  # ray has no types
    """Ray Tune's searcher over Optuna's ask and tell.

    Args:
        base: dotted parameter -> value without a setting.
        refuse: the reason why a setting is not worth a trial, None where it is.
        epochs: of a whole trial; one that stops before is told to Optuna as pruned.
        on_exhausted: called with the number of trials so far when there is no setting left to try.
    """

    on_exhausted: Callable[[int], object] = staticmethod(int)  # of a sweep that an earlier version began

    def __init__(
        self,
        sweep: Sweep,
        *,
        base: Mapping[str, Any],
        seed: int,
        epochs: int,
        refuse: Callable[[Settings], str | None],
        on_exhausted: Callable[[int], object] = int,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.seed, self.num_seeds, self.epochs, self.refuse = seed, sweep.seeds, epochs, refuse
        self.left, self.on_exhausted = sweep.trials, on_exhausted
        self.base = {key: base[key] for key in sweep.space}
        self.points = [dict(point) for point in sweep.points]
        if sweep.search == "grid":
            self.points += grid_points(sweep, seed)
        self.space = {} if sweep.search == "grid" else distributions(sweep)
        self._insistent, self._random = build_sampler(sweep, seed), RandomSampler(seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=self._insistent)
        self.refused: list[tuple[Settings, str]] = []
        self._seen: list[Settings] = []
        self._number = 0
        self._repeats: list[dict[str, Any]] = []  # configurations of the current setting that wait for a trial
        self._asked: dict[int, optuna.Trial] = {}  # number of a setting -> Optuna's trial
        self._trial_of: dict[str, int] = {}  # Tune's trial -> number of its setting
        self._scores: dict[int, list[float | None]] = {}

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial: parameters, seed and the number of the setting."""
        if not self._repeats:
            settings = self._next_setting()
            if settings is None:
                self.on_exhausted(self._number * self.num_seeds)
                return Searcher.FINISHED
            seeds = [self.seed + i for i in range(self.num_seeds)]
            self._repeats = [configure(settings, seed=seed, number=self._number) for seed in seeds]
            self._number += 1
            self.left -= 1
        configuration = self._repeats.pop(0)
        self._trial_of[trial_id] = configuration["number"]
        return configuration

    def _next_setting(self) -> dict[str, Any] | None:
        """The next setting that is allowed; None at the end."""
        if self.left <= 0:
            return None
        while self.points:
            point = self.points.pop(0)
            if self._is_allowed(point):
                self._enter(point)
                return point
        for refusals in range(MAX_REFUSALS if self.space else 0):
            # A search that insists on what is refused looks elsewhere.
            self.study.sampler = self._insistent if refusals < INSISTENCE else self._random
            asked = self.study.ask(self.space)
            settings = {key: decode(value) for key, value in asked.params.items()}
            if self._is_allowed(settings):
                self._asked[self._number] = asked
                return settings
            self.study.tell(asked, state=TrialState.FAIL)
        return None

    def _is_allowed(self, settings: dict[str, Any]) -> bool:
        """True for a setting that is new and not refused."""
        if settings in self._seen:
            return False
        self._seen.append(settings)
        reason = self.refuse(settings)
        if reason is not None:
            self.refused.append((settings, reason))
        return reason is None

    def _enter(self, point: Settings) -> None:
        """Let Optuna know a point, where it lies in the space."""
        values = {key: encode(value) for key, value in {**self.base, **point}.items()}
        known = self.space and values.keys() == self.space.keys()
        if known and all(space._contains(space.to_internal_repr(values[key])) for key, space in self.space.items()):
            self.study.enqueue_trial(values)
            self._asked[self._number] = self.study.ask(self.space)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the mean over the seeds once all have ended."""
        number = self._trial_of.get(trial_id)
        if number is None:
            return
        scores = self._scores.setdefault(number, [])
        scores.append(result.get(SCORE) if result and not error else None)
        if len(scores) < self.num_seeds or number not in self._asked:
            return
        there = [score for score in scores if score is not None]
        asked = self._asked.pop(number)
        if not there:
            self.study.tell(asked, state=TrialState.FAIL)
        elif result is not None and result.get(EPOCH, 0) < self.epochs and not result.get(COMPLETE):
            asked.report(statistics.fmean(there), step=result[EPOCH])
            self.study.tell(asked, state=TrialState.PRUNED)
        else:
            self.study.tell(asked, statistics.fmean(there))

    def save(self, checkpoint_path: str) -> None:
        """All that is known, for a sweep that is killed."""
        with open(checkpoint_path, "wb") as file:
            pickle.dump(self.__dict__, file)

    def restore(self, checkpoint_path: str) -> None:
        """The inverse of save."""
        with open(checkpoint_path, "rb") as file:
            self.__dict__.update(pickle.load(file))


def build_sampler(sweep: Sweep, seed: int) -> BaseSampler:
    """Optuna's sampler by its name in params.yaml."""
    if sweep.search == "tpe":
        # Optuna's default of 10 random settings first would make a short sweep a random one. The other two are its
        # defaults since 5.0, stated because another release may change what a seed proposes.
        startup = max(4, sweep.trials // 4)
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
    return RandomSampler(seed=seed)


def grid_points(sweep: Sweep, seed: int) -> list[dict[str, Any]]:
    """Every setting of the grid, shuffled: a sweep that ends early, or ASHA, has then seen all of it alike."""
    grid = {key: [decode(value) for value in values] for key, values in grid_values(sweep).items()}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []
    random.Random(seed).shuffle(points)
    return points
