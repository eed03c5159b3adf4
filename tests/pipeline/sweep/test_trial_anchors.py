"""The anchors of a trial are those that the stage would write with its parameters, and stay what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.anchor_stats.run import ANCHORS, TRAIN
from pipeline.anchor_stats.run import run as run_anchor_stats
from pipeline.params import load_params
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.sweep import anchors
from pipeline.sweep.anchors import trial_anchors
from pipeline.sweep.space import params_with

FITTED = {"anchors.mode": "fitted"}
Settings = dict[str, Any]


@pytest.fixture
def folder(project: Path) -> SweepFolder:
    """A sweep's folder in a prepared project, which is the current folder."""
    return SweepFolder(str(project / "runs/sweeps/s1"))


def of_trial(settings: Settings, folder: SweepFolder) -> dict[str, Any]:
    return trial_anchors(params_with(load_params(), settings), folder, train=str(TRAIN.resolve()))


@pytest.mark.parametrize(
    "settings", [{}, {"anchors.base_scale": 2.0}, FITTED, {**FITTED, "matcher.foreground_iou": 0.7}]
)
def test_they_are_those_that_the_stage_writes(settings: Settings, folder: SweepFolder) -> None:
    run_anchor_stats(params_with(load_params(), settings))
    assert of_trial(settings, folder) == json.loads(ANCHORS.read_text())


def test_fitted_ones_are_fitted_once_for_all_trials_that_fit_to_the_same(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = of_trial(FITTED, folder)
    monkeypatch.setattr(anchors, "anchors_in_force", lambda params, scaled: pytest.fail("fitted again"))
    assert of_trial({**FITTED, "loss.gamma": 1.0, "matcher.background_iou": 0.3}, folder) == first
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        of_trial({**FITTED, "matcher.foreground_iou": 0.6}, folder)


def test_a_resumed_trial_keeps_its_anchors_though_another_machine_might_fit_others(folder: SweepFolder) -> None:
    params = params_with(load_params(), FITTED)
    kept = {**of_trial(FITTED, folder), "offset": 0.25}
    folder.write_json(f"anchors/{anchors.digest_fit(params)}.json", kept)
    assert of_trial(FITTED, folder) == kept
