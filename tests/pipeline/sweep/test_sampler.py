"""What is tried next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import TPESampler
from ray.tune.search import Searcher

from pipeline.params import flatten, load_params
from pipeline.params.sweep import Sweep
from pipeline.runs.sweep_folder import EXHAUSTED, SweepFolder
from pipeline.sweep.sampler import Sampler

PARAMS = load_params(Path(__file__).parents[3] / "params.yaml")


def make(refuse: Callable[[Mapping[str, Any]], str | None] = lambda settings: None, **changes: Any) -> Sampler:
    assert PARAMS.sweep is not None
    sweep = Sweep.model_validate({**PARAMS.sweep.model_dump(), **changes})
    base = flatten(PARAMS.model_dump(exclude={"sweep"}))
    return Sampler(sweep, base=base, seed=1, epochs=4, refuse=refuse)


def draw(sampler: Sampler, count: int, score: Callable[[dict[str, Any]], float] = lambda found: 0.5) -> list[Any]:
    """Suggest and complete trials one after the other."""
    drawn = []
    for i in range(count):
        found = sampler.suggest(f"t{i}")
        if found == Searcher.FINISHED:
            break
        drawn.append(found)
        sampler.on_trial_complete(f"t{i}", {"score": score(found), "epoch": 4})
    return drawn


def test_points_come_first_and_then_the_search() -> None:
    drawn = draw(make(points=[{}, {"loss.gamma": 1.0}], trials=4), 10)
    assert [len([key for key in found if "." in key]) for found in drawn] == [0, 1, 4, 4]
    assert [found["number"] for found in drawn] == [0, 1, 2, 3]


def test_a_grid_is_tried_whole_and_once() -> None:
    space = {"loss.alpha": {"grid": [0.25, 0.5]}, "loss.gamma": {"grid": [0.0, 1.0, 2.0]}}
    drawn = draw(make(search="grid", space=space, points=[], trials=100), 100)
    pairs = {(found["loss.alpha"], found["loss.gamma"]) for found in drawn}
    assert len(drawn) == len(pairs) == 6


def test_it_says_after_how_many_trials_there_is_no_setting_left() -> None:
    said: list[int] = []
    sampler = make(search="grid", space={"loss.alpha": {"grid": [0.25, 0.5]}}, points=[], seeds=3, trials=100)
    sampler.on_exhausted = said.append
    assert len(draw(sampler, 100)) == 6 and said == [6]


def test_every_setting_gets_all_its_seeds() -> None:
    drawn = draw(make(seeds=3, trials=2), 20)
    assert [(found["number"], found["seed"]) for found in drawn] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert len({found["key"] for found in drawn}) == 6


def test_one_seed_gives_one_sequence() -> None:
    def score(found: dict[str, Any]) -> float:
        return float(found.get("loss.alpha", 0.0))

    assert draw(make(trials=8), 8, score) == draw(make(trials=8), 8, score)


def test_what_is_refused_is_never_tried() -> None:
    def refuse(settings: Mapping[str, Any]) -> str | None:
        return "too small" if settings.get("loss.alpha", 1.0) < 0.5 else None

    sampler = make(refuse, trials=12)
    drawn = draw(sampler, 12)
    assert len(drawn) == 12
    assert all(found.get("loss.alpha", 1.0) >= 0.5 for found in drawn)
    assert {reason for _, reason in sampler.refused} == {"too small"}


def test_a_space_in_which_nothing_is_allowed_ends_the_search() -> None:
    assert draw(make(lambda settings: "no"), 5) == []


def test_tpe_finds_the_better_half_of_the_space() -> None:
    drawn = draw(make(trials=40, points=[]), 40, lambda found: 1.0 - abs(found["loss.alpha"] - 0.7))
    late = [found["loss.alpha"] for found in drawn[20:]]
    assert sum(abs(alpha - 0.7) < 0.2 for alpha in late) > 15


def test_a_failed_trial_and_one_that_was_stopped_are_told_apart() -> None:
    sampler = make(points=[], trials=3)
    for i in range(3):
        sampler.suggest(f"t{i}")
    sampler.on_trial_complete("t0", {"score": 0.4, "epoch": 4})
    sampler.on_trial_complete("t1", {"score": 0.1, "epoch": 1})
    sampler.on_trial_complete("t2", error=True)
    assert [trial.state.name for trial in sampler.study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert sampler.study.trials[1].intermediate_values == {1: 0.1}


def test_trial_whose_training_ended_early_counts_as_a_whole_one() -> None:
    sampler = make(points=[], trials=1)
    sampler.suggest("t0")
    sampler.on_trial_complete("t0", {"score": 0.4, "epoch": 2, "is_complete": True})
    assert [trial.state.name for trial in sampler.study.trials] == ["COMPLETE"]


def test_a_setting_counts_with_the_mean_of_its_seeds() -> None:
    sampler = make(points=[], trials=1, seeds=2)
    for i, score in enumerate((0.2, 0.4)):
        sampler.suggest(f"t{i}")
        sampler.on_trial_complete(f"t{i}", {"score": score, "epoch": 4})
    assert sampler.study.best_value == pytest.approx(0.3)


def test_a_point_that_lies_in_the_space_teaches_the_search() -> None:
    sampler = make(points=[{}], trials=2)
    sampler.suggest("t0")
    sampler.on_trial_complete("t0", {"score": 0.6, "epoch": 4})
    assert sampler.study.best_value == 0.6
    assert sampler.study.best_params["loss.gamma"] == PARAMS.loss.gamma


def test_a_sampler_that_was_saved_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    straight, broken = make(trials=8, refuse=allow), make(trials=8, refuse=allow)
    expected = draw(straight, 8)
    first = draw(broken, 4)
    broken.save(str(tmp_path / "sampler"))
    restored = make(trials=8, refuse=allow)
    restored.restore(str(tmp_path / "sampler"))
    assert first + draw(restored, 4) == expected


def test_state_of_a_sweep_that_an_earlier_version_started_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class was in pipeline.sweep.records, so the state of a killed sweep holds it under that name."""
    sampler = make(trials=1, refuse=allow)
    sampler.on_exhausted = SweepFolder(str(tmp_path)).note_exhausted
    with monkeypatch.context() as earlier:
        earlier.setattr(SweepFolder, "__module__", "pipeline.sweep.records")
        sampler.save(str(tmp_path / "sampler"))
    restored = make(trials=1, refuse=allow)
    restored.restore(str(tmp_path / "sampler"))
    restored.on_exhausted(3)
    assert SweepFolder(str(tmp_path)).read(EXHAUSTED) == b"3"


def allow(settings: Mapping[str, Any]) -> None:
    return None


def test_one_seed_proposes_the_same_settings_and_no_default_of_optuna_decides_them() -> None:
    def score(found: dict[str, Any]) -> float:
        return 1 - abs(found.get("loss.alpha", 0.25) - 0.3)

    first, second = (draw(make(search="tpe", trials=12), 12, score) for _ in range(2))
    assert first == second and len(first) == 12
    sampler = make(search="tpe", trials=12).study.sampler
    assert isinstance(sampler, TPESampler)
    assert (sampler._multivariate, sampler._constant_liar) == (True, True)
