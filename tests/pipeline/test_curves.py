"""The laws of pipeline/reports/curves.py and of DVC's template for its CSV."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.reports.curves import plot_precision_recall, rank_curves, write_precision_recall_csv
from pipeline.reports.threshold_curves import plot_thresholds, write_thresholds_csv
from retinanet.evaluation.coco_eval import PrecisionRecallPoint
from retinanet.evaluation.score_matches import ThresholdPoint

TEMPLATE = Path(__file__).resolve().parents[2] / ".dvc" / "plots" / "precision_recall.json"
THRESHOLDS = TEMPLATE.with_name("thresholds.json")


def curve_points(*names: str) -> list[PrecisionRecallPoint]:
    recalls = np.linspace(0, 1, 101).tolist()
    return [
        PrecisionRecallPoint(name, iou, r, 1 - r * iou, 1 - r) for name in names for iou in (0.5, 0.75) for r in recalls
    ]


def size_px(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def run_dvc(*arguments: str, folder: Path) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, cwd=folder, env=environment)


def test_curves_are_ranked_by_ap50_and_of_many_the_best_and_the_worst_are_named() -> None:
    ap50 = {"b": 0.5, "a": 0.5, "best": 0.9, "worst": 0.1, "poor": 0.2}
    points = [PrecisionRecallPoint(name, 0.5, r, ap, 0.5) for name, ap in ap50.items() for r in (0.0, 1.0)]
    points.append(PrecisionRecallPoint("worst", 0.75, 0.0, 1.0, 0.5))  # at another IoU
    ranked = rank_curves(points, num_named=2)
    assert list(ranked.curves) == ["best", "a", "b", "poor", "worst"] and ranked.ap50["worst"] == pytest.approx(0.1)
    assert ranked.named == ["best", "a", "poor", "worst"]  # 5 classes are more than 2 * 2
    assert rank_curves(points, num_named=3).named == list(ranked.curves)
    assert rank_curves([], num_named=3) == ({}, {}, [])


def test_csv_holds_one_row_per_point(tmp_path: Path) -> None:
    points = curve_points("cat", 'a "dog", small')
    write_precision_recall_csv(points, tmp_path / "pr.csv")
    with (tmp_path / "pr.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "iou", "recall", "precision", "score"]
    assert [row[0] for row in rows] == [point.class_name for point in points]
    np.testing.assert_allclose(
        [[float(x) for x in row[1:]] for row in rows], [point[1:] for point in points], atol=1e-6
    )


def test_csv_of_no_points_keeps_its_header(tmp_path: Path) -> None:
    write_precision_recall_csv([], tmp_path / "pr.csv")
    assert (tmp_path / "pr.csv").read_bytes() == b"class,iou,recall,precision,score\n"


@pytest.mark.parametrize("num_classes", [0, 10, 11])
def test_precision_recall_is_drawn_for_any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    plot_precision_recall(curve_points(*(f"class {k}" for k in range(num_classes))), tmp_path / "pr.png")
    assert size_px(tmp_path / "pr.png") == (990, 550)


def threshold_points(*names: str) -> list[ThresholdPoint]:
    return [
        ThresholdPoint(name, t, 0.5 + t / 2 if t < 1 else math.nan, 1 - t, 0.5) for name in names for t in (0, 0.5, 1)
    ]


def test_csv_of_thresholds_leaves_undefined_cells_empty(tmp_path: Path) -> None:
    write_thresholds_csv(threshold_points("cat"), tmp_path / "thresholds.csv")
    rows = "cat,0,0.5,1,0.5\ncat,0.5,0.75,0.5,0.5\ncat,1,,0,0.5\n"
    assert (tmp_path / "thresholds.csv").read_text() == "class,threshold,precision,recall,f1\n" + rows


@pytest.mark.parametrize("num_classes", [0, 10, 11])
def test_thresholds_are_drawn_for_any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    names = [f"class {k}" for k in range(num_classes)]
    points = threshold_points(*names, "all classes") if names else []
    metrics: dict[str, float | None] = {"per_class.class 1.F1": None}  # no dot
    metrics |= {f"per_class.class 0.{name}": 0.5 for name in ("threshold", "precision", "recall", "F1")}
    plot_thresholds(points, metrics, tmp_path / "with.png")
    assert size_px(tmp_path / "with.png") == (1320, 550)
    plot_thresholds(points, {}, tmp_path / "without.png")
    has_dot = (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()
    assert has_dot == bool(names)


@pytest.mark.slow
def test_dvc_fills_the_template_from_the_csv(tmp_path: Path) -> None:
    write_precision_recall_csv(curve_points("cat", "dog"), tmp_path / "pr.csv")
    plot = {"x": "recall", "y": "precision", "template": "precision_recall", "title": "Precision and recall"}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"plots": [{"pr.csv": plot}]}))
    run_dvc("init", "--no-scm", folder=tmp_path)
    (tmp_path / ".dvc" / "plots").mkdir()
    shutil.copy(TEMPLATE, tmp_path / ".dvc" / "plots")
    run_dvc("plots", "show", "--out", "html", folder=tmp_path)
    found = re.search(r"var spec = (\{.*\});", (tmp_path / "html" / "index.html").read_text())
    assert found is not None
    spec = json.loads(found[1])
    assert "<DVC_METRIC" not in found[1]
    assert (spec["title"]["text"], spec["encoding"]["x"]["field"]) == ("Precision and recall", "recall")
    assert len(spec["data"]["values"]) == 2 * 2 * 101
    assert {"class", "iou", "score", "rev"} <= spec["data"]["values"][0].keys()


@pytest.mark.slow
def test_dvc_fills_the_template_of_thresholds(tmp_path: Path) -> None:
    write_thresholds_csv(threshold_points("cat", "dog"), tmp_path / "thresholds.csv")
    plot = {"x": "threshold", "y": "f1", "template": "thresholds"}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"plots": [{"thresholds.csv": plot}]}))
    run_dvc("init", "--no-scm", folder=tmp_path)
    (tmp_path / ".dvc" / "plots").mkdir()
    shutil.copy(THRESHOLDS, tmp_path / ".dvc" / "plots")
    run_dvc("plots", "show", "--out", "html", folder=tmp_path)
    found = re.search(r"var spec = (\{.*\});", (tmp_path / "html" / "index.html").read_text())
    assert found is not None
    assert "<DVC_METRIC" not in found[1]
    spec = json.loads(found[1])
    assert (spec["params"][0]["value"], spec["encoding"]["x"]["field"]) == ("f1", "threshold")
    assert {"class", "precision", "recall", "rev"} <= spec["data"]["values"][0].keys()
