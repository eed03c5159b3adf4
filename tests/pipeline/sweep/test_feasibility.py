"""Settings that cost no trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.params import load_params
from pipeline.params.sweep import Sweep
from pipeline.sweep.feasibility import FeasibilityCheck
from pipeline.sweep.tuning import repair
from tests.small_world import SmallWorld

PARAMS = load_params(Path(__file__).parents[3] / "params.yaml")


@pytest.fixture
def check(small_world: SmallWorld) -> FeasibilityCheck:
    assert PARAMS.sweep is not None
    sweep = Sweep.model_validate({**PARAMS.sweep.model_dump(), "constraints": ["loss.gamma < 3"]})
    return FeasibilityCheck(PARAMS, sweep, small_world.train)


def test_the_default_is_not_refused(check: FeasibilityCheck) -> None:
    assert check({}) is None


def test_a_broken_constraint_is_named(check: FeasibilityCheck) -> None:
    assert check({"loss.gamma": 3.0}) == "breaks loss.gamma < 3"


def test_what_params_yaml_could_not_hold_is_refused(check: FeasibilityCheck) -> None:
    reason = check({"matcher.foreground_iou": 0.3, "matcher.background_iou": 0.5})
    assert reason is not None and "background_iou" in reason


def test_anchors_that_leave_most_truths_without_a_positive_are_refused_with_the_share(check: FeasibilityCheck) -> None:
    # From 512 px on, and pictures of 64 px: no anchor overlaps a truth by half, and low_quality: none gives them none.
    far = {"anchors.base_scale": 64.0, "matcher.low_quality": "none"}
    assert check(far) == "only 0% of the ground-truth boxes have a foreground anchor, sweep.min_covered is 50%"
    assert check({**far, "matcher.low_quality": "truth"}) is None


def test_fitted_anchors_are_judged_instead_of_those_that_they_start_from(check: FeasibilityCheck) -> None:
    far = {"anchors.base_scale": 16.0, "matcher.low_quality": "none"}
    assert check(far) is not None
    assert check({**far, "anchors.mode": "fitted"}) is None


def test_pbt_moves_a_value_that_breaks_a_constraint_onto_it() -> None:
    broken = {"matcher.foreground_iou": 0.4, "matcher.background_iou": 0.6, "seed": 1}
    repaired = repair(broken, constraints=["matcher.background_iou <= matcher.foreground_iou"])
    assert repaired == {**broken, "matcher.background_iou": 0.4}
