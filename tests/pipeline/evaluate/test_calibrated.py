"""Laws of an evaluation with calibrated scores: every figure stays, scores and thresholds are the calibrated ones."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate import run as stage
from pipeline.evaluate.__main__ import main as evaluate
from pipeline.evaluate.calibrated import calibrate_detections
from pipeline.evaluate.judging import judge
from pipeline.evaluate.outputs import CALIBRATION, DETECTIONS, PAGE, REPORT, THRESHOLDS
from pipeline.params import flatten
from pipeline.reports.given_results import as_detections
from pipeline.reports.results import read_results
from pipeline.tracking import NoopRun
from retinanet.evaluation.bootstrap import average_precision, draw_weights
from retinanet.evaluation.class_matches import match_results
from retinanet.evaluation.coco_eval import ImageDetections, coco_results
from retinanet.evaluation.score_matches import describe_candidates
from retinanet.evaluation.temperature import scale_scores, scale_threshold
from retinanet.evaluation.working_point import choose_points
from tests.judged_world import random_results, random_truth
from tests.stored_temperature import set_calibrate, store

TEMPERATURE = 0.6
SCORE_KEYS = (".threshold",)


def crowded(seed: int) -> tuple[dict[str, Any], dict[int, ImageDetections]]:
    """A random world whose scores are float32 neighbours just below 1, as a low temperature makes them equal."""
    truth = random_truth(seed)
    detections = as_detections(truth, random_results(truth, seed))
    close = {
        image_id: (boxes, (1 - np.round(64 * (1 - scores)) * 2.0**-24).astype(np.float32), labels)
        for image_id, (boxes, scores, labels) in detections.items()
    }
    return truth, close


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [1 / 16, 0.5, 4.0])
def test_results_file_of_calibrated_scores_has_the_ap_of_raw_ones(seed: int, temperature: float) -> None:
    truth, raw = crowded(seed)
    rounded = {key: (b, scale_scores(s, temperature).astype(np.float32), c) for key, (b, s, c) in raw.items()}
    scores = np.concatenate([found[1] for found in raw.values()])
    if temperature < 1:  # else this world would test nothing
        assert (
            len(np.unique(scores)) > 20 > 3 > len(np.unique(np.concatenate([found[1] for found in rounded.values()])))
        )
    found = calibrate_detections(raw, temperature)
    # As compare, the model card and promotion read them from the results file.
    written = json.loads(json.dumps(list(coco_results(truth, found))))
    weights = draw_weights(len(truth["images"]), 5, seed=0)
    one, other = (
        average_precision(match_results(truth, rows), weights) for rows in (written, coco_results(truth, raw))
    )
    np.testing.assert_array_equal(one, other)


@settings(max_examples=25)
@given(seed=st.integers(0, 20), temperature=st.floats(1 / 16, 16))
def test_judged_figures_stay_and_shown_scores_change(seed: int, temperature: float) -> None:
    truth = random_truth(seed)
    detections = as_detections(truth, random_results(truth, seed))
    points = choose_points({"working_point": describe_candidates(truth, detections, lowest=0.0)}, "f1")
    judged = [
        judge(truth, detections, points, resamples=0, temperature=temperature, calibrates=calibrates)
        for calibrates in (False, True)
    ]
    raw, found = (one.result.metrics for one in judged)
    assert raw.keys() == found.keys()
    for name, value in raw.items():
        changes = name.endswith(SCORE_KEYS) and value is not None
        assert found[name] == (scale_threshold(value, temperature) if changes else value), name
    before_curve, curve = (one.result.precision_recall for one in judged)
    assert [point[:4] for point in curve] == [point[:4] for point in before_curve]
    assert [point.score for point in curve] == [scale_threshold(point.score, temperature) for point in before_curve]
    before, after = (one.analysis for one in judged)
    assert before.errors is not None and after.errors is not None
    shown = scale_scores(before.errors.detections.scores, temperature).astype(np.float32)
    assert after.errors.detections.scores.tolist() == shown.tolist()
    assert after.errors.detections.in_use.tolist() == before.errors.detections.in_use.tolist()
    assert [one.threshold for one in after.classes] == [
        found[f"per_class.{one.name}.threshold"] for one in after.classes
    ]
    for first, second in zip(before.mistakes, after.mistakes, strict=True):
        assert (second.box, second.suspicion) == (first.box, first.suspicion)
        assert second.score == scale_threshold(first.score, temperature)


def test_curves_over_the_threshold_are_those_of_calibrated_scores() -> None:
    truth = random_truth(1)
    detections = as_detections(truth, random_results(truth, 1))
    curves = judge(truth, detections, None, resamples=0, temperature=0.5, calibrates=True).curves
    scaled = {key: (b, scale_scores(s, 0.5).astype(np.float32), c) for key, (b, s, c) in detections.items()}
    expected = judge(truth, scaled, None, resamples=0, temperature=None).curves
    assert len(curves) == len(expected) > 200
    np.testing.assert_array_equal([point[1:] for point in curves], [point[1:] for point in expected])


# ---- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def untracked(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project of an untrained detector, whose file lacks a temperature."""
    monkeypatch.setattr(stage, "open_existing_run", lambda **opening: nullcontext(NoopRun()))
    return untrained


def outcome() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report and the detections of an evaluation."""
    evaluate([])
    return flatten(json.loads(REPORT.read_text())), read_results(DETECTIONS)


@pytest.mark.usefixtures("untracked")
def test_switch_changes_scores_and_thresholds_alone() -> None:
    store(TEMPERATURE, [0.25, 0.2])
    raw, raw_rows = outcome()
    set_calibrate(on=True)
    found, rows = outcome()
    thresholds = [name for name in raw if name.endswith(SCORE_KEYS)]
    assert len(thresholds) >= 3
    for name, value in raw.items():
        assert found[name] == (scale_threshold(value, TEMPERATURE) if name in thresholds else value), name
    assert found["temperature"] == TEMPERATURE and found["ECE"] != found["ECE_with_temperature"]
    assert len(rows) == len(raw_rows) > 20
    for row, other in zip(rows, raw_rows, strict=True):
        assert row | {"score": 0} == other | {"score": 0}
        assert row["score"] == float(scale_scores(np.array([other["score"]]), TEMPERATURE)[0])
    with CALIBRATION.open() as file:
        assert {row["scores"] for row in csv.DictReader(file)} == {"raw", "as returned, with temperature"}
    with THRESHOLDS.open() as file:
        recalls = [float(row["recall"]) for row in csv.DictReader(file) if row["class"] == "all classes"]
    # Raw scores are above 0.05; the odds 1 / 19 to the power of 1 / 0.6 are 1 / 135, a score of 0.0073.
    assert recalls[0] >= recalls[1] > 0
    text = PAGE.read_text()
    assert f"Scores are calibrated with a temperature of {TEMPERATURE:.2f}, fitted on val" in text
    assert "A score is no probability" not in text


@pytest.mark.usefixtures("untracked")
def test_too_few_detections_on_val_are_told_and_leave_raw_scores(capsys: pytest.CaptureFixture[str]) -> None:
    store(None, [0.25, 0.2])
    raw = outcome()
    assert "not calibrated" not in capsys.readouterr().out
    set_calibrate(on=True)
    assert outcome() == raw
    told = capsys.readouterr().out
    assert "warning: the model has no temperature, because its training had fewer than 10 right or 10 wrong" in told
    assert "the scores are not calibrated (postprocess.calibrate)" in told


@pytest.mark.usefixtures("untracked")
def test_older_model_is_refused_before_any_work_with_the_way_out() -> None:
    set_calibrate(on=True)
    with pytest.raises(ValueError, match=r"trained by an older version.*set postprocess\.calibrate to false"):
        evaluate([])
    assert not REPORT.exists()
