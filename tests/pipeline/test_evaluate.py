"""Laws of the stage evaluate, with a detector that has never learnt: its outs and what it tells the tracker."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.evaluate import detection, speed
from pipeline.evaluate import run as stage
from pipeline.evaluate.__main__ import main
from pipeline.evaluate.outputs import (
    CALIBRATION,
    CONFUSION,
    CURVE,
    DETECTIONS,
    ERRORS,
    MISTAKES,
    PAGE,
    PICTURES,
    REPORT,
    SHEET,
    SPEED,
    THRESHOLDS,
)
from pipeline.reports.results import read_results
from pipeline.runs.identity import RUN_ID, RunFolder
from pipeline.tracking import NoopRun
from retinanet.data.splits import Split
from retinanet.inference.detector_file import load_detector, save_detector

OUTS = (REPORT, PAGE, DETECTIONS, MISTAKES, CONFUSION, CURVE, THRESHOLDS, ERRORS, CALIBRATION, *PICTURES)
COCO_NAMES = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}


class Told(NoopRun):
    """A run that remembers what it was told."""

    def __init__(self) -> None:
        self.opened: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.artifacts: list[tuple[Path, str | None]] = []
        self.pictures: list[tuple[str, Path, int]] = []
        self.links: list[str] = []

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.metrics |= metrics

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.artifacts.append((path, folder))

    def log_picture(self, key: str, path: Path, step: int) -> None:
        self.pictures.append((key, path, step))

    def link_artifact(self, path: str, title: str) -> None:
        self.links.append(path)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    run = Told()
    monkeypatch.setattr(stage, "open_existing_run", lambda **opening: (run.opened.update(opening), run)[1])
    return run


def change(**sections: dict[str, Any]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in sections.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.usefixtures("untrained")
def test_all_outs_are_written_with_the_names_of_coco(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    report = json.loads(REPORT.read_text())
    assert set(report) > COCO_NAMES
    assert report["AR100"] > 0  # boxes everywhere find something
    names = [category["name"] for category in json.loads(Path("data/prepared/test.json").read_text())["categories"]]
    assert set(report["per_class"]) == set(names)
    with CURVE.open() as file:
        assert {row["class"] for row in csv.DictReader(file)} <= set(names)
    for picture in PICTURES:
        with Image.open(picture) as opened:
            assert min(opened.size) > 64
    printed = capsys.readouterr().out
    assert "\ntest: AP 0.00" in printed
    assert "`python -m pipeline.diagnose` names the likeliest cause" in printed
    assert f"<dd>{report['AP50']:.3f}" in PAGE.read_text()


@pytest.mark.usefixtures("untrained")
def test_tracker_is_told_under_the_name_of_the_split_in_the_run_of_the_training(told: Told) -> None:
    RunFolder("runs", "d1").write(RUN_ID, "0123")
    main([])
    report = json.loads(REPORT.read_text())
    assert told.opened["run_id"] == "0123"
    assert told.opened["params"]["postprocess.nms_iou"] == 0.5
    assert told.metrics["test.AP"] == report["AP"]
    assert {name for name in told.metrics if not name.startswith("test.")} == set()
    judged = [(DETECTIONS, "judged/test"), (Path("data/prepared/test.json"), "judged/test")]
    assert told.artifacts == [(path, None) for path in (REPORT, PAGE, SPEED, MISTAKES, CONFUSION, *PICTURES)] + judged
    assert told.pictures == [("detections", SHEET, 3)]
    assert told.links == ["evaluate.html"]


@pytest.mark.usefixtures("untrained")
def test_storage_that_does_not_answer_costs_a_warning(
    told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: RunFolder, name: str) -> str:
        raise ValueError(f"{folder.url} cannot be used (Access Denied)")

    monkeypatch.setattr(RunFolder, "read", refuse)
    main([])
    assert (told.opened["run_id"], told.opened["digest"]) == (None, "d1")
    assert "d1 cannot be used (Access Denied); searching MLflow for run d1" in capsys.readouterr().out


@pytest.mark.usefixtures("untrained")
def test_mlflow_that_refuses_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**opening: object) -> None:
        raise ValueError("MLflow cannot open a run")

    monkeypatch.setattr(stage, "open_existing_run", refuse)
    monkeypatch.setattr(detection, "detect", lambda *arguments, **options: pytest.fail("detects"))
    with pytest.raises(ValueError, match="MLflow cannot open a run"):
        main([])


@pytest.mark.usefixtures("untrained", "told")
def test_kept_detections_give_the_reported_ap_in_pycocotools_alone() -> None:
    main([])
    results = read_results(DETECTIONS)
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO("data/prepared/test.json")
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    report = json.loads(REPORT.read_text())
    assert (evaluator.stats[0], evaluator.stats[8]) == (report["AP"], report["AR100"])


@pytest.mark.usefixtures("untrained", "told")
def test_same_detector_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_speed", lambda *arguments: None)  # the report shows it
    main([])
    first = [path.read_bytes() for path in OUTS]
    main([])
    assert [path.read_bytes() for path in OUTS] == first


@pytest.mark.usefixtures("untrained")
def test_split_of_params_is_judged(told: Told) -> None:
    change(evaluate={"split": "val"})
    main([])
    assert "val.AP" in told.metrics
    assert "test.AP" not in told.metrics


@pytest.mark.usefixtures("untrained", "told")
def test_postprocess_of_params_is_used() -> None:
    change(postprocess={"score_threshold": 1.0})  # no score is above 1
    main([])
    report = json.loads(REPORT.read_text())
    assert report["AP"] == report["AR100"] == 0.0


@pytest.mark.usefixtures("untrained", "told")
def test_no_picture_may_be_asked_for() -> None:
    change(evaluate={"pictures": 0})
    main([])
    assert SHEET.exists()


@pytest.mark.usefixtures("project", "told")
def test_missing_model_is_told_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"models/model\.pt does not exist; run the train stage"):
        main([])


@pytest.mark.usefixtures("untrained", "told")
def test_another_detector_is_evaluated_if_its_classes_are_the_splits() -> None:
    other = Path("other.pt")
    Path("models/model.pt").rename(other)
    main(["--model", "other.pt"])
    assert "python -m pipeline.evaluate --model other.pt" in PAGE.read_text() and "dvc repro" not in PAGE.read_text()
    weights, description = load_detector(other)
    names = [category["name"] for category in description["categories"]]
    save_detector(other, weights, description | {"run": description["run"] | {"imported": "torchvision, a.pth"}})
    main(["--model", "other.pt"])
    assert "Imported from torchvision, a.pth, evaluated on" in PAGE.read_text()
    save_detector(other, weights, description | {"categories": description["categories"][::-1]})
    complaint = (
        rf"other\.pt detects {len(names)} classes and the split has {len(names)}.*'{names[-1]}' and '{names[0]}'"
    )
    with pytest.raises(ValueError, match=complaint):
        main(["--model", "other.pt"])


def test_class_that_is_called_none_is_a_class() -> None:
    classes = [{"id": 1, "name": "cell"}, {"id": 2, "name": "none"}]
    content = {"info": {"root": "", "split": "test"}, "images": [], "annotations": [], "categories": classes}
    description = {"categories": classes[:1]}
    with pytest.raises(ValueError, match=r"of which the first that differ are none and 'none'; set data\.classes"):
        stage.check_classes(description, Split(content), Path("model.pt"))


@pytest.mark.usefixtures("untrained", "told")
def test_missing_split_is_told_with_what_to_do() -> None:
    Path("data/prepared/test.json").unlink()
    with pytest.raises(ValueError, match=r"data/prepared/test\.json does not exist; run the preceding stage"):
        main([])


@pytest.mark.usefixtures("untrained", "told")
def test_pictures_are_found_where_the_place_says(project: Path, tmp_path: Path) -> None:
    (project / "data/prepared/images").rename(tmp_path / "mounted")
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text()) | {"data_root": str(tmp_path / "mounted")}
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))
    main([])
    assert REPORT.exists()
