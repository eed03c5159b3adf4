"""Laws of calibrated scores in use: the same detections as without, from every command and model that detects."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.detector.calibration import choose_temperature
from pipeline.params.runtime import load_runtime
from pipeline.predict.__main__ import main as predict
from pipeline.predict.on_ray import configure
from pipeline.predict.shards import Job, ShardFolder
from pipeline.predict.worker import prepare_worker
from pipeline.serve.app import describe_model
from pipeline.serve.detection import DetectionService
from pipeline.serve.settings import Settings
from pipeline.tracking.card import Measured, model_card
from retinanet.data.pictures import read_picture
from retinanet.evaluation.temperature import scale_threshold
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import load_detector
from retinanet.inference.temperature import calibrate_scores
from tests.stored_temperature import MODEL, set_calibrate, store

IMAGES = Path("data/prepared/images/test")
LEAST, LOWER = 0.24, 0.22  # of scores of random weights with a prior of 0.2


@pytest.fixture(params=[0.6, 2.5])
def temperature(untrained: Path, request: pytest.FixtureRequest) -> float:
    """That of the project's detector."""
    store(request.param, [LEAST, LOWER])
    value: float = request.param
    return value


def pictures() -> list[str]:
    return sorted(map(str, IMAGES.glob("*.png")))


def expected(temperature: float, least: float = LEAST) -> list[tuple[list[float], float]]:
    """Boxes and calibrated scores of what raw scores above a threshold keep, over all pictures."""
    found = Detector.load(MODEL)([read_picture(path).permute(1, 2, 0).numpy() for path in pictures()])
    rows = []
    for boxes, scores, _ in found:
        kept = scores > np.float32(least)
        rows += list(zip(boxes[kept].tolist(), calibrate_scores(scores[kept], temperature).tolist(), strict=True))
    assert 10 < len(rows) < sum(len(one.scores) for one in found) - 10
    return rows


def assert_same(boxes: Any, scores: Any, rows: list[tuple[list[float], float]], *, px: float) -> None:
    assert np.array(scores) == pytest.approx([score for _, score in rows], abs=2e-5)
    assert np.array(boxes) == pytest.approx(np.array([box for box, _ in rows]), abs=px)


def predicted(*options: str) -> list[dict[str, Any]]:
    """Rows of results.json."""
    predict([str(IMAGES), "--output", "out", "--format", "coco", *options])
    rows: list[dict[str, Any]] = json.loads(Path("out/results.json").read_text())
    return rows


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_predict_keeps_what_raw_scores_keep(temperature: float, capsys: pytest.CaptureFixture[str]) -> None:
    raw = predicted()
    assert "calibrated" not in capsys.readouterr().out
    set_calibrate(on=True)
    rows = predicted()
    told = capsys.readouterr().out
    assert f"scores are calibrated with the temperature {temperature:g}\n" in told
    assert f"on val: disc {scale_threshold(LEAST, temperature):.3f}, " in told
    assert [row | {"score": 0} for row in rows] == [row | {"score": 0} for row in raw]
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in expected(temperature)], abs=2e-5)
    assert predicted("--no-calibrate") == raw
    assert predicted("--model", str(MODEL.resolve())) == raw  # not by the project's name
    assert predicted("--model", str(MODEL.resolve()), "--calibrate") == rows


def test_number_is_one_of_calibrated_scores(temperature: float) -> None:
    number = scale_threshold(LOWER, temperature)
    rows = predicted("--calibrate", "--score-threshold", f"{number!r}")
    assert len(rows) == len(expected(temperature, LOWER))
    assert min(row["score"] for row in rows) > number - 1e-5


def test_worker_of_ray_calibrates_where_the_driver_does(temperature: float) -> None:
    least = scale_threshold(LEAST, temperature)
    job = Job(8, list_sha256="l", model_sha256="m", classes=[], thresholds=[least] * 3, shard_pictures=8)
    assert not configure(MODEL, job, load_runtime(), root=None).calibrate
    config = configure(MODEL, replace(job, temperature=temperature), load_runtime(), root=None)
    config = replace(config, threads=torch.get_num_threads(), processes=0)
    rows = pq.read_table(io.BytesIO(prepare_worker(config)(pictures()))).to_pylist()
    boxes, scores = ([one for row in rows for one in row[key]] for key in ("boxes", "scores"))
    assert_same(np.array(boxes).reshape(-1, 4), scores, expected(temperature), px=0.001)


def test_shards_of_another_temperature_are_refused(tmp_path: Path) -> None:
    job = Job(pictures=1, list_sha256="l", model_sha256="m", classes=["a"], thresholds=[0.5], shard_pictures=1)
    folder = ShardFolder(str(tmp_path / "out"))
    folder.open(job)
    begun = json.loads((tmp_path / "out/job.json").read_text())
    del begun["temperature"]  # as an older version wrote it
    (tmp_path / "out/job.json").write_text(json.dumps(begun))
    assert folder.open(job) == job
    with pytest.raises(ValueError, match=r"begun with the temperature None of scores, now it is 0\.5"):
        folder.open(Job(**{**begun, "temperature": 0.5}))


# ---- serve and the MLflow model --------------------------------------------------------------------------------------


def test_service_answers_with_calibrated_scores(temperature: float) -> None:
    def answered(service: DetectionService, **asked: str | None) -> tuple[list[list[float]], list[float]]:
        limits = service.choose_thresholds(**({"threshold": None, "working_point": None} | asked))
        found = [asyncio.run(service.detect(Path(path).read_bytes(), limits)) for path in pictures()]
        each = [one.detections for one in found]
        return [box for one in each for box in one.boxes.tolist()], [s for one in each for s in one.scores.tolist()]

    service = DetectionService(Detector.load(MODEL), Settings(model=str(MODEL), calibrate=True))
    assert_same(*answered(service), expected(temperature), px=0.001)
    # Of 9 objects, 6 are found at the second threshold.
    assert_same(*answered(service, working_point="recall=0.6"), expected(temperature, LOWER), px=0.001)
    number = scale_threshold(LOWER, temperature)
    assert_same(*answered(service, threshold=f"{number!r}"), expected(temperature, LOWER), px=0.001)
    assert service.floor == scale_threshold(0.05, temperature)
    assert describe_model(service)["temperature"] == temperature
    plain = DetectionService(Detector.load(MODEL), Settings(model=str(MODEL)))
    assert (plain.floor, describe_model(plain)["temperature"]) == (0.05, None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_model_in_mlflow_calibrates_on_request(temperature: float) -> None:
    import pandas as pd

    from pipeline.tracking.model import signature
    from pipeline.tracking.serving import ServedDetector

    model, table = ServedDetector(), pd.DataFrame({"image": pictures()})
    model.detector = Detector.load(MODEL)
    plain = model.predict(None, table, {"working_point": "f1", "calibrate": False})
    found = model.predict(None, table, {"working_point": "f1", "calibrate": True})
    assert found.drop(columns="score").equals(plain.drop(columns="score"))
    assert_same(found[["x1", "y1", "x2", "y2"]].to_numpy(), found["score"].tolist(), expected(temperature), px=0.001)
    assert model.predict(None, table, {}).equals(plain)
    assert {one.name: one.default for one in signature().params}["calibrate"] is False


@pytest.mark.parametrize("known", [True, False])
def test_model_card_says_the_temperature_where_there_is_one(temperature: float, *, known: bool) -> None:
    store(temperature if known else None, [LEAST, LOWER])
    text = model_card(MODEL, measured=Measured("val"), params={}, tags={}, run_id=None).text
    assert "Thresholds, precision and recall are those of the best F1 on val" in text
    assert (f"divides the logits of both by the temperature {temperature:g}." in text) == known


# ---- detectors without a temperature ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_older_model_is_refused() -> None:
    with pytest.raises(ValueError, match="imported or trained by an older version"):
        predicted("--calibrate")
    set_calibrate(on=True)
    with pytest.raises(ValueError, match="imported or trained by an older version"):
        predicted()
    assert not Path("out").exists()


@pytest.mark.usefixtures("untrained")
def test_project_with_too_few_detections_goes_on_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    store(None, [LEAST, LOWER])
    raw = predicted()
    set_calibrate(on=True)
    assert predicted() == raw
    assert "warning: the model has no temperature, because its training had fewer than 10" in capsys.readouterr().out
    description = load_detector(MODEL)[1]
    with pytest.raises(ValueError, match="fewer than 10 right or 10 wrong detections on val"):
        choose_temperature(description, option=True, is_projects=True)
