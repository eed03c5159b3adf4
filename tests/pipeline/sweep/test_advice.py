"""Laws of the advice after a sweep: each case gives its rule alone, and its YAML is a valid section sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.params import Params
from pipeline.params.sweep import Sweep, check_sweep
from pipeline.runs.sweep_folder import FAILED, RUNNING
from pipeline.sweep.advice import RULES, Outcome, advise
from pipeline.sweep.importance import Importance
from tests.pipeline.sweep.made_up_sweep import PARAMS, SPACE, SWEEP, make_outcome, make_setting

DOCS = Path(__file__).resolve().parents[3] / "docs" / "sweeps.md"
THREE = {"seeds": 3}
BASE = make_setting(0, {}, 0.30, 0.31, 0.32)
BEST = make_setting(1, {"loss.alpha": 0.4, "loss.gamma": 1.5}, 0.50, 0.51, 0.52)
# Enough settings for two parameters, all worse than BASE beyond doubt.
REST = [make_setting(n, {"loss.alpha": 0.2 + n / 100, "loss.gamma": 1.0}, 0.10, 0.11, 0.12) for n in range(2, 25)]
IMPORTANT = [Importance("loss.alpha", 0.7, 0.005), Importance("loss.gamma", 0.3, 0.03)]
FREE = [Importance("loss.alpha", 0.9, 0.005), Importance("loss.gamma", 0.1, 0.8)]


def of(winner: Any = BEST, *others: Any, sweep: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    return make_outcome([winner, *others, *REST], sweep=THREE | (sweep or {}), **changes)


EDGE = make_setting(1, {"loss.alpha": 0.4, "loss.gamma": 3.9}, 0.50, 0.51, 0.52)
CASES: dict[str, Outcome] = {
    "not ended": of(BEST, BASE, make_setting(30, {"loss.alpha": 0.7}, state=RUNNING), has_ended=False),
    "failed trials": of(BEST, BASE, make_setting(30, {"loss.alpha": 0.7}, state=FAILED, error="loss is nan")),
    "short trials": of(make_setting(1, BEST.settings, 0.50, 0.51, 0.52, rise=0.06), BASE),
    "edge of the range": of(EDGE, BASE, importances=IMPORTANT),
    "no influence": of(BEST, BASE, importances=FREE),
    "few settings": make_outcome([BEST, BASE], sweep=THREE),
    "few seeds": of(BEST, make_setting(30, {"loss.alpha": 0.5}, 0.49, 0.51, 0.53), BASE),
    "no baseline": of(sweep={"points": [{"loss.alpha": 0.3}]}),
    "no gain": of(make_setting(0, {}, 0.50, 0.51, 0.52)),
}


@pytest.mark.parametrize("rule", CASES)
def test_a_case_with_one_shortcoming_gets_the_advice_for_it_alone(rule: str) -> None:
    assert [one.rule for one in advise(CASES[rule])] == [rule]


def test_a_sound_sweep_gets_no_advice() -> None:
    assert advise(of(BEST, BASE, importances=IMPORTANT)) == []


@pytest.mark.parametrize("rule", CASES)
def test_proposed_yaml_is_a_valid_section_sweep(rule: str) -> None:
    for one in advise(CASES[rule]):
        for command in one.commands:
            if command.startswith("python -m pipeline.sweep "):
                continue
            changes = yaml.safe_load(command)["sweep"]
            merged = {
                **SWEEP,
                **{
                    key: {**SWEEP[key], **value} if value and key == "space" else value
                    for key, value in changes.items()
                },
            }
            sweep = Sweep.model_validate(merged)
            assert sweep.check() == []
            assert (
                list(check_sweep(sweep, Params, {name: value for name, value in PARAMS.items() if name != "sweep"}))
                == []
            )
            assert changes.keys() <= SWEEP.keys() and changes != {key: CASES[rule].sweep[key] for key in changes}


def test_one_seed_asks_for_the_best_three_again_with_three_seeds() -> None:
    settings = [make_setting(n, {"loss.alpha": n / 10}, 0.6 - n / 10) for n in (3, 4, 5, 6)]
    sweep = {"space": {"loss.alpha": {"choice": [0.1, 0.3, 0.9]}}, "search": "grid"}
    (seeds,) = advise(make_outcome(settings, sweep=sweep))
    changes = yaml.safe_load(seeds.commands[0])["sweep"]
    assert changes["points"] == [{"loss.alpha": 0.3}, {"loss.alpha": 0.4}, {"loss.alpha": 0.5}]
    assert (changes["seeds"], changes["trials"], changes["space"]) == (3, 3, {})


def test_seeds_that_separate_nothing_after_five_end_the_search() -> None:
    tied = make_setting(30, {"loss.alpha": 0.5}, 0.49, 0.51, 0.53)
    (one,) = advise(of(BEST, tied, BASE, sweep={"seeds": 5}))
    assert one.rule == "few seeds" and one.proposal.startswith("Take either") and not one.commands


def test_a_parameter_without_influence_is_fixed_and_not_searched_further() -> None:
    (one,) = advise(of(EDGE, BASE, importances=FREE))
    assert one.rule == "no influence" and yaml.safe_load(one.commands[0]) == {"sweep": {"fixed": {"loss.gamma": 3.9}}}
    few = make_outcome([EDGE, BASE, *REST[:10]], sweep=THREE, importances=FREE)
    assert "no influence" not in [one.rule for one in advise(few)]  # 12 settings could not show one


def test_ap_that_fell_again_rises_no_longer() -> None:
    trainings = [BEST.trainings[0]._replace(points=[(1, 0.2), (2, 0.52), (3, 0.5)])]
    assert advise(of(BEST._replace(trainings=trainings), BASE)) == []


def test_a_parameter_without_influence_needs_no_settings() -> None:
    """24 settings and more are enough for two parameters, but not for three."""
    space = SPACE | {"loss.beta": {"uniform": [0.01, 0.5]}}
    beta = Importance("loss.beta", 0.0, 0.9)
    rules = [one.rule for one in advise(of(BEST, BASE, sweep={"space": space}, importances=[*IMPORTANT, beta]))]
    assert rules == ["no influence"]
    rules = [one.rule for one in advise(of(BEST, BASE, sweep={"space": space}, importances=IMPORTANT))]
    assert rules == ["few settings"]


def test_a_baseline_that_failed_is_no_missing_one() -> None:
    failed = make_setting(0, {}, state=FAILED, error="loss is nan")
    assert [one.rule for one in advise(of(BEST, failed, sweep={"points": [{}]}))] == ["failed trials"]


def test_a_sweep_of_points_alone_has_no_range_to_widen() -> None:
    rules = [one.rule for one in advise(of(EDGE, BASE, sweep={"space": {}}))]
    assert rules == []


def test_documentation_lists_the_rules() -> None:
    section = DOCS.read_text().partition("## What to try next")[2].partition("\n## ")[0]
    assert [rule for rule in CASES if f"| {rule} |" not in section] == []
    assert len(CASES) == len(RULES) + 1  # the last rule has two outcomes
    assert SPACE.keys() == {"loss.alpha", "loss.gamma"}
