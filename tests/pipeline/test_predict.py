"""Laws of the command predict: which pictures, the same detections as the detector's, every format, broken pictures."""

from __future__ import annotations

import csv
import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.formats import SplitFiles, read_splits
from pipeline.predict.__main__ import main
from pipeline.predict.inputs import find_pictures
from retinanet.data.pictures import read_picture
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import load_detector, save_detector

IMAGES = Path("data/prepared/images/test")


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


def located(*arguments: str) -> list[tuple[str, str]]:
    return [tuple(source) for source in find_pictures(arguments)]


# ---- the arguments ---------------------------------------------------------------------------------------------------


def test_pictures_of_every_kind_of_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/deep/b.jpg", "c.png", "d.webp"):
        draw(tmp_path / name)
    Path("in/notes.md").write_text("")
    Path("list.txt").write_text("in/a.png\n\n  c.png \nhttps://host/e.jpg\n")
    assert located("in") == [("in/a.png", "a"), ("in/deep/b.jpg", "deep/b")]
    assert located("c.png", "in/a.png") == [("c.png", "c"), ("in/a.png", "a")]
    assert located("*.png") == [("c.png", "c")]
    assert located("**/*.jpg") == [("in/deep/b.jpg", "b")]
    assert located("list.txt") == [("in/a.png", "a"), ("c.png", "c"), ("https://host/e.jpg", "e")]
    assert located(f"file://{tmp_path}/in") == [
        (f"file://{tmp_path}/in/a.png", "a"),
        (f"file://{tmp_path}/in/deep/b.jpg", "deep/b"),
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("c.png\nin/a.png\n"))
    assert located("-") == [("c.png", "c"), ("in/a.png", "a")]


def test_picture_is_taken_once_and_two_of_one_name_get_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.png", "two/a.png", "two/A.jpg"):
        draw(tmp_path / name)
    assert [name for _, name in located("one/a.png", "two", "one/a.png")] == ["a", "A_2", "a_3"]


@pytest.mark.parametrize("argument", ["nowhere", "*.png", "empty"])
def test_argument_without_a_picture_is_refused(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    draw(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="there is no picture; expected a file, or a folder with files"):
        find_pictures(["a.jpg", argument])


# ---- detections ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_detections_are_those_of_the_detector_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    formats = ["pictures", "coco", "csv", "yolo", "voc"]
    main([str(IMAGES), "--score-threshold", "0.02", "--output", "out", "--format", *formats])
    assert "8 pictures: pictures, coco, csv, yolo, voc in out" in capsys.readouterr().out
    detector = Detector.load("models/model.pt")
    detector.postprocess = detector.build_postprocess(score_threshold=0.02)
    content, results = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("coco", "results"))
    paths = sorted(IMAGES.glob("*.png"))
    assert [image["file_name"] for image in content["images"]] == list(map(str, paths))
    total = 0
    for number, path in enumerate(paths, start=1):
        (expected,) = detector([read_picture(str(path)).permute(1, 2, 0).numpy()])
        rows = [row for row in results if row["image_id"] == number]
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert boxes == pytest.approx(expected.boxes.numpy(), abs=0.011)
        assert [row["score"] for row in rows] == pytest.approx(expected.scores.tolist(), abs=1e-5)
        total += len(rows)
    assert total > 20
    assert [{**row} for row in content["annotations"]] == [
        {"id": n, **row, "area": round(row["bbox"][2] * row["bbox"][3], 2), "iscrowd": 0}
        for n, row in enumerate(results, start=1)
    ]
    with Path("out/detections.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len([row for row in table if row["class"]]) == total
    assert {path.stem for path in Path("out/pictures").glob("*.jpg")} == {path.stem for path in paths}
    drawn, whole = read_picture(f"out/pictures/{paths[0].stem}.jpg"), read_picture(str(paths[0]))
    assert drawn.shape == whole.shape
    assert (drawn.int() - whole.int()).abs().max() > 60
    labels = [line for path in Path("out/labels").glob("*.txt") for line in path.read_text().splitlines()]
    objects = [row for path in Path("out/annotations").glob("*.xml") for row in ElementTree.parse(path).iter("object")]
    assert (len(labels), len(objects)) == (total, total)


@pytest.mark.usefixtures("untrained")
def test_pictures_in_tiles_are_detected_on_as_by_the_detector() -> None:
    model = Path("models/model.pt")
    weights, description = load_detector(model)
    description["transforms"]["tiles"] = {"size": [64, 30], "overlap": 0.2, "min_visible": 0.25}  # 3 tiles
    save_detector(model, weights, description)
    paths = sorted(IMAGES.glob("*.png"))[:2]
    main([*map(str, paths), "--score-threshold", "0.02", "--output", "out"])
    detector = Detector.load(model)
    detector.postprocess = detector.build_postprocess(score_threshold=0.02)
    content, results = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("coco", "results"))
    assert [(image["height"], image["width"]) for image in content["images"]] == [(64, 64)] * 2
    for number, path in enumerate(paths, start=1):
        (expected,) = detector([read_picture(str(path)).permute(1, 2, 0).numpy()])
        boxes = np.array([row["bbox"] for row in results if row["image_id"] == number])
        boxes[:, 2:] += boxes[:, :2]
        assert boxes == pytest.approx(expected.boxes.numpy(), abs=0.011)
        assert boxes[:, 0].max() > 30


@pytest.mark.usefixtures("untrained")
def test_yolo_files_are_read_back_by_prepare() -> None:
    """What a labelling tool corrects comes back as a data set."""
    main([str(IMAGES), "--score-threshold", "0.02", "--output", "out", "--format", "coco", "yolo"])
    shutil.copytree(IMAGES, "out/images")
    Path("out/data.yaml").write_text(Path("out/data.yaml").read_text() + "train: images\n")
    split = read_splits("yolo", "out", {"train": SplitFiles("data.yaml", "")})[0]["train"]
    rows = json.loads(Path("out/results.json").read_text())
    boxes = np.array([box["bbox"] for box in split.coco["annotations"]])
    assert boxes == pytest.approx(np.array([row["bbox"] for row in rows]), abs=0.02)


@pytest.mark.usefixtures("untrained")
def test_broken_picture_is_reported_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    content = (IMAGES / "000001.png").read_bytes()
    (IMAGES / "000002.png").write_bytes(content[:200])
    (IMAGES / "000003.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2 of 8 pictures could not be read, listed in out/failed.txt; the first: "):
        main([str(IMAGES), "--output", "out", "--print"])
    lines = [line for line in capsys.readouterr().out.splitlines() if ".png: " in line]
    assert len(lines) == 6
    failed = [line.partition("\t")[0] for line in Path("out/failed.txt").read_text().splitlines()]
    assert failed == [str(IMAGES / name) for name in ("000002.png", "000003.png")]
    assert len(json.loads(Path("out/coco.json").read_text())["images"]) == 6


@pytest.mark.usefixtures("untrained")
def test_loader_processes_change_nothing() -> None:
    for processes in (0, 1):
        main([str(IMAGES), "--score-threshold", "0.02", "--output", f"out{processes}", "--processes", str(processes)])
    names = ("coco.json", "results.json", "detections.csv")
    first, second = ([Path(f"out{processes}/{name}").read_bytes() for name in names] for processes in (0, 1))
    assert first == second


@pytest.mark.usefixtures("untrained")
def test_wrong_options_are_named() -> None:
    for options, message in (
        (["--score-threshold", "2"], "--score-threshold is 2.0; expected 0 to 1"),
        (["--processes", "-1"], "--processes is -1; expected 0 or more"),
        (["--device", "abacus"], "--device abacus cannot be used"),
        (["--model", "nowhere.pt"], "nowhere.pt"),
    ):
        with pytest.raises(ValueError, match=message):
            main([str(IMAGES), *options])
    assert not torch.cuda.is_initialized()
