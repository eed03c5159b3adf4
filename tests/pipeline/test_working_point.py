"""Laws of the working point from training to use: chosen on val, stored with the detector, reported, and used."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.evaluate import detection
from pipeline.evaluate import run as stage
from pipeline.evaluate.__main__ import main as evaluate
from pipeline.evaluate.outputs import REPORT, THRESHOLDS
from pipeline.evaluate.run import MODEL
from pipeline.evaluate.thresholds import ALL, choose
from pipeline.fit.building import build_state
from pipeline.fit.loop import load_splits
from pipeline.fit.validation import validate
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.predict.__main__ import main as predict
from pipeline.storage.outs import read_json
from pipeline.tracking import NoopRun
from pipeline.worker_config import worker_config
from retinanet.data.splits import load_split
from retinanet.evaluation.coco_eval import ImageDetections
from retinanet.evaluation.score_matches import describe_candidates
from retinanet.evaluation.working_point import Target, WorkingPoints, choose_points, is_kept
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import load_detector, save_detector
from tests.alone import alone

VAL, IMAGES = Path("data/prepared/val.json"), Path("data/prepared/images/val")
LOWEST = 0.05  # the paper's score threshold


def detect(detector: Detector, split: Path) -> dict[int, ImageDetections]:
    root = read_json(split)["info"]["root"]
    return detection.detect(detector, load_split(split, root=root), processes=0)


@pytest.fixture
def pointed(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project of an untrained detector, whose file holds the candidates that training would have stored."""
    monkeypatch.setattr(stage, "open_existing_run", lambda **opening: nullcontext(NoopRun()))
    candidates = describe_candidates(read_json(VAL), detect(Detector.load(MODEL), VAL), lowest=LOWEST)
    weights, description = load_detector(MODEL)
    save_detector(MODEL, weights, description | {"working_point": candidates})
    return untrained


def change(**values: Any) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["evaluate"] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def chosen(target: Target) -> WorkingPoints:
    points = choose_points(load_detector(MODEL)[1], target)
    assert points is not None
    return points


def class_names() -> list[str]:
    return [category["name"] for category in read_json(VAL)["categories"]]


# ---- training --------------------------------------------------------------------------------------------------------


def test_training_stores_the_candidates_of_its_own_detections(project: Path) -> None:
    config = worker_config(load_params(), load_runtime(), digest="d1", run=str(project / "run"))
    _, val = load_splits(config.data)
    state = build_state(config, alone(), total_steps=3)
    metrics, candidates = validate(state, config, val, alone(), epoch=1)
    assert "AP" in metrics and "working_point" not in metrics
    found = detect(Detector(state.inference_network, dict(config.description)), VAL)
    assert candidates == describe_candidates(read_json(VAL), found, lowest=LOWEST)
    assert candidates["overall"]["thresholds"]


# ---- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["f1", {"recall": 0.3}])
@pytest.mark.usefixtures("pointed")
def test_split_of_the_choice_has_the_figures_of_the_choice(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    change(split="val", working_point=target)
    evaluate([])
    report, points = json.loads(REPORT.read_text()), chosen(target)
    assert any(points.classes)
    for name, point, threshold in zip(class_names(), points.classes, points.thresholds, strict=True):
        row = report["per_class"][name]
        assert row["threshold"] == threshold
        if point is not None:
            assert [row["precision"], row["recall"], row["F1"]] == pytest.approx(point[1:])
    assert 0 < report["precision"] < 1 and 0 < report["recall"] <= 1
    harmonic = 2 / (1 / report["precision"] + 1 / report["recall"])
    assert report["F1"] == pytest.approx(harmonic)
    words = "best F1" if target == "f1" else f"{next(iter(target))} of at least {next(iter(target.values())):g}"
    assert f"at the {words} on val: precision 0." in capsys.readouterr().out


@pytest.mark.usefixtures("pointed")
def test_another_split_has_the_thresholds_of_val_and_curves_of_each_class_and_of_all() -> None:
    evaluate([])
    report = json.loads(REPORT.read_text())
    assert [report["per_class"][name]["threshold"] for name in class_names()] == chosen("f1").thresholds
    with THRESHOLDS.open() as file:
        rows = list(csv.DictReader(file))
    truth = read_json(Path("data/prepared/test.json"))
    present = {box["category_id"] for box in truth["annotations"]}
    names = [category["name"] for category in truth["categories"] if category["id"] in present]
    assert list(dict.fromkeys(row["class"] for row in rows)) == [*names, ALL]
    assert len(rows) == 101 * (len(names) + 1)
    for name in (*names, ALL):
        recalls = [float(row["recall"]) for row in rows if row["class"] == name]
        assert recalls[0] > 0 and recalls[-1] == 0  # above a score of 1 there is nothing, so no precision either
        assert recalls == sorted(recalls, reverse=True)
    assert rows[-1]["precision"] == ""


@pytest.mark.usefixtures("pointed")
def test_target_out_of_reach_is_told_with_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(load_detector(MODEL)[1], {"precision": 1.0}) == chosen({"precision": 1.0})
    assert "warning: no threshold gives a precision of at least 1 on val for " in capsys.readouterr().out


@pytest.mark.usefixtures("untrained")
def test_detector_of_an_older_version_is_evaluated_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "open_existing_run", lambda **opening: nullcontext(NoopRun()))
    evaluate([])
    report = json.loads(REPORT.read_text())
    assert (report["precision"], report["recall"], report["F1"]) == (None, None, None)
    in_use = [report["per_class"][class_names()[0]][name] for name in ("threshold", "precision", "recall", "F1")]
    assert in_use == [None] * 4
    told = capsys.readouterr().out
    assert "the model has no working point (its training stored none), so precision, recall and F1 are null" in told


# ---- predict ---------------------------------------------------------------------------------------------------------


def scores_of_results() -> list[list[tuple[int, float]]]:
    """Category and score of the detections written, image by image in the order of their names."""
    images, rows = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("coco", "results"))
    each = [[row for row in rows if row["image_id"] == image["id"]] for image in images["images"]]
    return [[(row["category_id"], row["score"]) for row in rows] for rows in each]


def expected_scores(thresholds: list[float]) -> list[list[tuple[int, float]]]:
    """The same from the detections of the paper's post-processing."""
    ids = [category["id"] for category in read_json(VAL)["categories"]]
    found = detect(Detector.load(MODEL), VAL)
    paths = {image["id"]: image["file_name"] for image in read_json(VAL)["images"]}
    images = []
    for image_id in sorted(found, key=paths.__getitem__):
        _, scores, labels = found[image_id]
        kept = is_kept(scores, labels, thresholds)
        rows = zip(labels[kept], scores[kept].tolist(), strict=True)
        images.append([(ids[label], round(score, 5)) for label, score in rows])
    return images


@pytest.mark.usefixtures("pointed")
def test_predict_keeps_what_is_above_the_threshold_of_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    predict([str(IMAGES), "--output", "out", "--format", "coco"])
    thresholds = chosen("f1").thresholds
    assert len(set(thresholds)) > 1
    values = ", ".join(f"{name} {least:.3f}" for name, least in zip(class_names(), thresholds, strict=True))
    assert f"score thresholds of the best F1 on val: {values}\n" in capsys.readouterr().out
    total = 0
    for ours, theirs in zip(scores_of_results(), expected_scores(thresholds), strict=True):
        assert [row[0] for row in ours] == [row[0] for row in theirs]
        assert [row[1] for row in ours] == pytest.approx([row[1] for row in theirs], abs=2e-5)
        total += len(ours)
    assert 0 < total < sum(map(len, expected_scores([LOWEST] * len(thresholds))))


@pytest.mark.usefixtures("pointed")
def test_predict_takes_the_target_of_the_option_or_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*options: str) -> str:
        predict([str(next(IMAGES.glob("*.png"))), "--output", "out", "--format", "coco", *options])
        return capsys.readouterr().out

    change(working_point={"recall": 0.3})
    assert "thresholds of the recall of at least 0.3 on val: " in told()
    assert "thresholds of the precision of at least 0.05 on val: " in told("--working-point", "precision=0.05")
    assert "thresholds of the best F1 on val: " in told("--model", str(MODEL.resolve()))  # not by the project's name
    assert "threshold" not in told("--score-threshold", "0.5")
    lowest = min(score for image in scores_of_results() for _, score in image) if any(scores_of_results()) else 1.0
    assert lowest > 0.5


@pytest.mark.usefixtures("untrained")
def test_predict_with_an_older_model_keeps_its_threshold_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(IMAGES), "--output", "out", "--format", "coco"]
    predict(arguments)
    assert "the model has no working point; score threshold 0.3\n" in capsys.readouterr().out
    assert all(score > 0.3 for image in scores_of_results() for _, score in image)
    with pytest.raises(ValueError, match="--working-point is f1, but the model has none; give --score-threshold"):
        predict([*arguments, "--working-point", "f1"])


@pytest.mark.usefixtures("pointed")
def test_wrong_targets_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the working point is 'best'; expected f1, or precision=P"):
        predict([str(IMAGES), "--working-point", "best"])
    with pytest.raises(SystemExit):
        predict([str(IMAGES), "--working-point", "f1", "--score-threshold", "0.5"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.usefixtures("pointed")
def test_detector_takes_a_threshold_for_each_class() -> None:
    detector = Detector.load(MODEL)
    pictures = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]
    (everything,) = detector(pictures)
    thresholds = [1.0] + [float(everything.scores.median())] * (len(class_names()) - 1)
    (found,) = detector(pictures, score_threshold=thresholds)
    kept = is_kept(everything.scores.numpy(), everything.labels.numpy(), thresholds)
    assert found.scores.tolist() == everything.scores[kept].tolist()
    assert 0 < kept.sum() < len(kept) and 0 not in found.labels.tolist()
