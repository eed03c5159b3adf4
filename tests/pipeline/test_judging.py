"""Laws of what an evaluation writes about its analysis: metrics, tables, pictures, and two lines on the screen."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.evaluate.judging import Judged, judge, summarise_errors
from pipeline.evaluate.outputs import (
    CALIBRATION,
    CONFUSION,
    CONFUSION_PICTURE,
    ERRORS,
    MISTAKES,
    PICTURES,
    SHEET,
    write_outputs,
)
from pipeline.evaluate.page_parts import show
from pipeline.evaluate.thresholds import summarise
from pipeline.reports.given_results import as_detections
from pipeline.storage.outs import nest
from retinanet.evaluation.score_matches import describe_candidates
from retinanet.evaluation.working_point import choose_points
from tests.judged_world import CLASSES, random_results, random_truth

Detections = dict[int, Any]


def judged_world(*, in_use: bool = True) -> tuple[dict[str, Any], Detections, Judged]:
    truth = random_truth(3)
    for number, image in enumerate(truth["images"]):
        image["columns"] = {"site": "a.b" if number % 2 else "c"}
    detections = as_detections(truth, random_results(truth, 4))
    candidates = describe_candidates(truth, detections, lowest=0.05)
    points = choose_points({"working_point": candidates}, "f1") if in_use else None
    return truth, detections, judge(truth, detections, points, resamples=20, temperature=candidates["temperature"])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_metrics_have_stable_names() -> None:
    _, _, judged = judged_world()
    report = nest(judged.result.metrics)
    assert report["interval"]["AP"]["low"] < report["AP"] < report["interval"]["AP"]["high"]
    assert set(report["interval"]) == {
        *["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "precision", "recall", "F1"]
    }
    assert list(report["errors"]) == ["classification", "localisation", "both", "duplicate", "background", "missed"]
    names = {"AP50_gain", "AP50_gain_low", "AP50_gain_high", "count", "count_in_use"}
    assert all(set(error) == names for error in report["errors"].values())
    assert {"s", "m", "l", "32-64"} <= set(report["sizes"])
    assert set(report["sizes"]["m"]) == {"AP", "AP_low", "AP_high", "AP50", "recall", "truths"}
    assert report["sizes"]["m"]["AP"] == pytest.approx(report["APm"])
    assert set(report["conditions"]) == {"site=a.b", "site=c"}
    assert report["conditions"]["site=c"]["images"] == 20
    assert {"ECE", "temperature", "ECE_with_temperature"} <= set(report)
    assert set(report["per_class"]) == set(CLASSES)
    own = {"AP75", "max_recall", "truths", "detections", "AP_low", "AP_high"}
    assert own < set(report["per_class"]["leaf"])


def test_tables_and_pictures(tmp_path: Path) -> None:
    truth, detections, judged = judged_world()
    write_outputs(truth, detections, judged, folder=tmp_path)
    analysis = judged.analysis
    assert analysis.confusion is not None and analysis.errors is not None and analysis.calibration is not None
    errors = {row["kind"]: row for row in read(tmp_path / ERRORS)}
    assert {kind: int(row["count"]) for kind, row in errors.items()} == {
        kind: one.count for kind, one in analysis.errors.kinds.items()
    }
    assert sum(int(row["count"]) for row in read(tmp_path / CONFUSION)) == analysis.confusion.counts.sum()
    calibration = read(tmp_path / CALIBRATION)
    assert [row["scores"] for row in calibration] == ["as they are"] * 10 + ["with temperature"] * 10
    assert sum(int(row["count"]) for row in calibration[:10]) == sum(one.count for one in analysis.calibration.bins)
    mistakes = read(tmp_path / MISTAKES)
    assert [row["rank"] for row in mistakes] == [str(n) for n in range(1, len(analysis.mistakes) + 1)] != []
    assert {row["detected"] for row in mistakes} <= set(CLASSES)
    for path in PICTURES:
        if path != SHEET:
            with Image.open(tmp_path / path) as opened:
                assert min(opened.size) > 400


def test_without_a_working_point_the_confusion_is_empty(tmp_path: Path) -> None:
    truth, detections, judged = judged_world(in_use=False)
    write_outputs(truth, detections, judged, folder=tmp_path)
    assert read(tmp_path / CONFUSION) == []
    assert (tmp_path / CONFUSION_PICTURE).is_file()
    assert judged.result.metrics["errors.missed.count_in_use"] is None


def test_names_of_classes_are_no_tex(tmp_path: Path) -> None:
    truth, detections, judged = judged_world()
    confusion = judged.analysis.confusion
    assert confusion is not None
    confusion.class_names[0] = "$x_{$"
    write_outputs(truth, detections, judged, folder=tmp_path)
    assert (tmp_path / CONFUSION_PICTURE).is_file()


def test_threshold_below_a_score_of_0_is_0_without_a_sign() -> None:
    metrics = {"precision": 0.5, "recall": 0.5, "F1": 0.5}
    own = {f"per_class.leaf.{name}": value for name, value in (metrics | {"threshold": -5e-7}).items()}
    assert summarise(metrics | own, "f1").endswith("  threshold 0.000")
    assert show(-5e-7) == "0.000" and show(-0.25) == "-0.250"


def test_screen_has_the_interval_and_the_costliest_errors_first() -> None:
    _, _, judged = judged_world()
    interval, errors = summarise_errors(judged.analysis).splitlines()
    assert interval.startswith("AP of other images of this kind: 0.") and interval.endswith("(95 %, 40 images)")
    words = errors.removeprefix("AP50 lost to errors: ").split()
    assert words[::2][0] in {"missed", "background", "localisation"}
    gains = [float(word) for word in words[1::2]]
    assert gains == sorted(gains, reverse=True) and min(gains) > 0
