"""The settings of a sweep from its records, the best first, and whether the winner is better than the others."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import ttest_ind

from pipeline.runs.sweep_folder import SweepFolder

DOUBT = 0.05  # significance level of the difference between two settings


class Training(NamedTuple):
    """The training of a setting with one seed.

    Attributes:
        state: of pipeline.runs.sweep_folder.
        points: epoch and AP on val of each evaluation.
        error: of a failed one.
    """

    seed: int
    state: str
    points: Sequence[tuple[int, float]]
    error: str = ""
    seconds: float = 0.0


class Setting(NamedTuple):
    """A setting with its trials.

    Attributes:
        scores: best AP on val of each seed that has one.
        epochs: most epochs trained by any seed.
        thresholds: the best ones for the detector of its best seed, None if not searched.
        trainings: of all seeds.
    """

    number: int
    settings: dict[str, Any]
    scores: list[float]
    states: list[str]
    epochs: int
    thresholds: dict[str, float] | None
    trainings: Sequence[Training] = ()

    @property
    def mean(self) -> float:
        """Mean over the seeds; below any AP if there is none."""
        return statistics.fmean(self.scores) if self.scores else -1.0

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


def rank_settings(folder: SweepFolder) -> list[Setting]:
    """Return the settings of a sweep, best first; settings stopped early rank by the AP they had reached."""
    by_number: dict[int, list[dict[str, Any]]] = {}
    for record in folder.records():
        by_number.setdefault(record["number"], []).append(record)
    settings = [gather(folder, number, records) for number, records in by_number.items()]
    return sorted(settings, key=lambda setting: -setting.mean)


def gather(folder: SweepFolder, number: int, records: Sequence[Mapping[str, Any]]) -> Setting:
    """Build a setting from the records of its seeds."""
    scored = [record for record in records if record.get("score") is not None and record.get("history")]
    best = max(scored, key=lambda record: record["score"], default=None)
    found = folder.read_json(f"trials/{best['key']}/thresholds.json") if best else None
    return Setting(
        number=number,
        settings=dict(records[0]["settings"]),
        scores=[record["score"] for record in scored],
        states=[record["state"] for record in records],
        epochs=max((record["history"][-1]["epoch"] for record in scored), default=0),
        thresholds=found[0] if found else None,
        trainings=[as_training(record) for record in records],
    )


def as_training(record: Mapping[str, Any]) -> Training:
    """Read the record of a trial."""
    rows = record.get("history") or []
    points = [(row["epoch"], row["AP"]) for row in rows if row.get("AP") is not None]
    return Training(record["seed"], record["state"], points, record.get("error", ""), record.get("seconds", 0.0))


def verdict(settings: Sequence[Setting], seeds: int) -> str:
    """Return the verdict: whether the winner differs significantly from the others."""
    winner = settings[0]
    if seeds == 1:
        return (
            f"trial {winner.number} has the highest AP, {winner.mean:.3f}; with one seed per setting, a "
            "difference may be chance: set sweep.seeds to 3 or more to test it"
        )
    equals = [other.number for other in tied(settings)]
    if not equals:
        return f"trial {winner.number} is best, AP {winner.mean:.3f}: significantly better than all others"
    return (
        f"trial {winner.number} has the highest AP, {winner.mean:.3f}, but is not significantly better than "
        f"{', '.join(f'trial {number}' for number in equals)} (Welch's t-test over the seeds, p > {DOUBT:g})"
    )


def tied(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings that do not differ significantly from the winner; those without an AP do."""
    winner, *others = settings
    return [other for other in others if other.scores and not is_significant(winner.scores, other.scores)]


def is_significant(some: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether Welch's t-test separates two settings; it needs at least two seeds each."""
    if len(some) < 2 or len(others) < 2:
        return False
    if statistics.pstdev(some) == statistics.pstdev(others) == 0:
        return statistics.fmean(some) != statistics.fmean(others)
    return bool(ttest_ind(some, others, equal_var=False).pvalue <= DOUBT)
