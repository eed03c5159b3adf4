"""What to try after a sweep: rules with their reasons in docs/sweeps.md, in the order in which to follow them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.params import flatten
from pipeline.runs.sweep_folder import ENDED, FAILED
from pipeline.sweep.importance import Importance
from pipeline.sweep.ranking import Setting, tied
from pipeline.sweep.widening import edge_of, widened

RISING = 0.05  # AP gained in the last evaluation of the winner: its training is far from its end
FREE = 0.5  # share of the shuffles that give a parameter as much importance: it has none that could be seen
ENOUGH = 20  # settings, from which a parameter without importance can be fixed
PER_PARAMETER = 10  # settings for each parameter of the space (Loeppky et al. 2009)
FINALISTS = 3  # settings that are trained again with more seeds
SEEDS, MOST_SEEDS = 3, 5


class Advice(NamedTuple):
    """Something to try.

    Attributes:
        rule: its name in docs/sweeps.md.
        commands: to run, or YAML for section sweep.
    """

    rule: str
    finding: str
    proposal: str
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What a sweep has found.

    Attributes:
        settings: the best first; the first has an AP.
        plan: content of sweep.json.
        importances: empty for too few settings.
        has_ended: whether no trial is left to train.
    """

    settings: Sequence[Setting]
    plan: Mapping[str, Any]
    importances: Sequence[Importance] = ()
    has_ended: bool = True

    @property
    def winner(self) -> Setting:
        """The setting of the highest AP."""
        return self.settings[0]

    @property
    def base(self) -> dict[str, Any]:
        """Value of every parameter by dotted name, without a setting."""
        return flatten(self.plan["params"])

    @property
    def sweep(self) -> Mapping[str, Any]:
        """Section sweep."""
        section: Mapping[str, Any] = self.plan["sweep"]
        return section

    @property
    def names(self) -> list[str]:
        """The parameters that settings change."""
        return sorted({name for setting in self.settings for name in setting.settings})

    @property
    def free(self) -> list[str]:
        """The parameters of the space that show no influence."""
        space = self.sweep["space"]
        return [one.name for one in self.importances if one.chance > FREE and one.name in space]

    def value(self, setting: Setting, name: str) -> Any:
        """The value of a parameter in a setting."""
        return setting.settings.get(name, self.base[name])

    def baseline(self) -> Setting | None:
        """The setting that is params.yaml unchanged."""
        base = self.base
        same = (one for one in self.settings if all(base.get(name) == value for name, value in one.settings.items()))
        return next((one for one in same if one.scores), None)


def advise(outcome: Outcome) -> list[Advice]:
    """Return the advice in the order in which to follow it; empty where no rule applies."""
    return [one for rule in RULES for one in rule(outcome)]


def not_ended(outcome: Outcome) -> Iterator[Advice]:
    """Trials are left."""
    if not outcome.has_ended:
        ended = sum(state in ENDED for setting in outcome.settings for state in setting.states)
        yield Advice(
            "not ended",
            f"{ended} of {outcome.plan['trials']} trials have ended.",
            "Let the sweep end; the ranking may change.",
            ["python -m pipeline.sweep resume"],
        )


def short_trials(outcome: Outcome) -> Iterator[Advice]:
    """AP of the winner still rises."""
    curves = [[ap for _, ap in each.points] for each in outcome.winner.trainings if len(each.points) > 1]
    rise = max((curve[-1] - max(curve[:-1]) for curve in curves), default=0.0)
    if rise >= RISING:
        epochs = 2 * outcome.plan["params"]["train"]["epochs"]
        yield Advice(
            "short trials",
            f"AP of the winner rose by {rise:.3f} in its last evaluation.",
            "Give the trials more epochs: a setting that learns fast wins short trials, and perhaps not long ones.",
            [f"sweep:\n  fixed:\n    train.epochs: {epochs}"],
        )


def edges(outcome: Outcome) -> Iterator[Advice]:
    """The winner lies on the edge of a range, and values beyond it are valid."""
    for name, entry in outcome.sweep["space"].items():
        value = outcome.value(outcome.winner, name)
        entry = (
            None
            if name in outcome.free or edge_of(entry, value) is None
            else widened(outcome.plan["params"], name, entry, value)
        )
        if entry is not None:
            ((kind, values),) = entry.items()
            yield Advice(
                "edge of the range",
                f"The winner's {name}, {json.dumps(value)}, lies on the edge of its range.",
                "Search beyond it: a better value may lie there.",
                [f"sweep:\n  space:\n    {name}:\n      {kind}: {json.dumps(values)}"],
            )


def without_influence(outcome: Outcome) -> Iterator[Advice]:
    """Many settings show no influence of a parameter."""
    free = outcome.free
    if len(outcome.settings) >= ENOUGH and free and len(free) < len(outcome.sweep["space"]):
        lines = "".join(f"\n    {name}: {json.dumps(outcome.value(outcome.winner, name))}" for name in free)
        yield Advice(
            "no influence",
            f"{len(outcome.settings)} settings show no influence of {join_names(free)}.",
            f"Fix {'it' if len(free) == 1 else 'them'} and search the others: the same number of trials then covers "
            "these more densely.",
            [f"sweep:\n  fixed:{lines}"],
        )


def few_settings(outcome: Outcome) -> Iterator[Advice]:
    """The space has many parameters for so few settings."""
    searched = len(outcome.sweep["space"]) - (len(outcome.free) if len(outcome.settings) >= ENOUGH else 0)
    least = PER_PARAMETER * searched
    if outcome.has_ended and outcome.sweep["search"] != "grid" and len(outcome.settings) < least:
        yield Advice(
            "few settings",
            f"{len(outcome.settings)} settings are few for {searched} parameters.",
            f"Try {least}, or search fewer parameters at once.",
            [f"sweep:\n  trials: {least}"],
        )


def few_seeds(outcome: Outcome) -> Iterator[Advice]:
    """Seeds do not separate the winner from others."""
    seeds = outcome.sweep["seeds"]
    rivals = [one for one in outcome.settings[1:] if one.scores] if seeds == 1 else tied(outcome.settings)
    if not rivals:
        return
    if seeds >= MOST_SEEDS:
        finding = f"{seeds} seeds do not separate the winner from trial {rivals[0].number}."
        yield Advice("few seeds", finding, "Take either: the one nearer to params.yaml, or the cheaper one.")
        return
    more = SEEDS if seeds == 1 else MOST_SEEDS
    points = "".join(f"\n    - {in_one_line(one.settings)}" for one in [outcome.winner, *rivals][:FINALISTS])
    count = min(FINALISTS, 1 + len(rivals))
    settings = f"sweep:\n  space: {{}}\n  constraints: []\n  points:{points}\n  search: random\n  scheduler: none"
    yield Advice(
        "few seeds",
        f"With {'one seed' if seeds == 1 else f'{seeds} seeds'} per setting, the difference to the next may be chance.",
        f"Train the best {count} again with {more} seeds each, all to their end.",
        [f"{settings}\n  trials: {count}\n  seeds: {more}"],
    )


def no_gain(outcome: Outcome) -> Iterator[Advice]:
    """The unchanged params.yaml wins, or was not tried."""
    baseline, points = outcome.baseline(), outcome.sweep["points"]
    if baseline is None and {} not in points:
        lines = "".join(f"\n    - {in_one_line(point)}" for point in [{}, *points])
        yield Advice(
            "no baseline",
            "The unchanged params.yaml was not tried, so nobody knows what the sweep has gained.",
            "Make it the first point.",
            [f"sweep:\n  points:{lines}"],
        )
    elif baseline is not None and baseline.number == outcome.winner.number and len(outcome.settings) > 1:
        yield Advice(
            "no gain",
            "No setting beats the unchanged params.yaml.",
            "Search other parameters: what limits the detector stands in reports/evaluate.html.",
        )


def failed_trials(outcome: Outcome) -> Iterator[Advice]:
    """Trials failed."""
    failed = [(one, each) for one in outcome.settings for each in one.trainings if each.state == FAILED]
    if failed:
        setting, training = min(failed, key=lambda pair: pair[0].number)
        yield Advice(
            "failed trials",
            f"{len(failed)} training{'s' if len(failed) > 1 else ''} failed, that of trial {setting.number} with: "
            f"{training.error or 'no message'}",
            "If the loss was not finite, the setting diverges: leave such values out of the space, or lower optim.lr.",
        )


def join_names(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def in_one_line(settings: Mapping[str, Any]) -> str:
    """A setting as YAML."""
    return f"{{{', '.join(f'{name}: {json.dumps(value)}' for name, value in settings.items())}}}"


RULES: tuple[Callable[[Outcome], Iterator[Advice]], ...] = (
    not_ended,
    short_trials,
    edges,
    without_influence,
    few_settings,
    few_seeds,
    no_gain,
    failed_trials,
)
