"""Laws of the files of predict: one for every picture, whatever its name and size, and none lost with another."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from pipeline.detector.drawing import LONGEST_JPEG, encode_jpeg
from pipeline.predict import batches
from pipeline.predict.__main__ import main
from retinanet.data.pictures import decode
from retinanet.inference.detector_file import load_detector, save_detector

IMAGES = Path("data/prepared/images/test")


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_name_that_is_no_utf8_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """As of an archive that was packed on Windows: umlauts in Latin-1."""
    name = os.fsdecode(b"caf\xe9.png")
    save(Path("in") / name)
    Path("in/broken.png").touch()
    Path("in/broken.png").rename(os.fsdecode(b"in/\xe9.png"))
    with pytest.raises(ValueError, match="1 of 2 pictures could not be read"):
        main(["in", "--output", "out", "--print", "--format", "pictures", "coco", "csv", "yolo", "voc"])
    assert "in/caf\\udce9.png: " in capsys.readouterr().out
    assert Path("out/detections.csv").read_text("utf-8").splitlines()[1].startswith("in/caf\\udce9.png,20,10,")
    assert Path("out/failed.txt").read_text("utf-8").startswith("in/\\udce9.png\t")
    assert json.loads(Path("out/coco.json").read_text())["images"][0]["file_name"] == f"in/{name}"
    page = Path("out/annotations") / os.fsdecode(b"caf\xe9.xml")
    assert ElementTree.parse(page).findtext("filename") == "caf\\udce9.png"
    assert (Path("out/labels") / os.fsdecode(b"caf\xe9.txt")).exists()


@pytest.mark.usefixtures("untrained")
def test_class_names_of_data_yaml_are_yaml() -> None:
    weights, description = load_detector("models/model.pt")
    named = ["\N{GRINNING FACE}", 'a"b', "\N{LATIN SMALL LETTER A WITH DIAERESIS}"]
    description["categories"] = [{"id": number, "name": name} for number, name in enumerate(named)]
    save_detector(Path("models/model.pt"), weights, description)
    main([str(IMAGES), "--output", "out", "--format", "yolo"])
    assert yaml.safe_load(Path("out/data.yaml").read_text("utf-8")) == {"names": named}


# ---- one picture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [3, LONGEST_JPEG + 1000])
def test_picture_that_is_too_long_for_a_jpeg_is_drawn_smaller(height: int) -> None:
    drawn = decode(encode_jpeg(torch.full((3, height, 64), 200, dtype=torch.uint8)))
    assert drawn.shape == (3, min(height, LONGEST_JPEG), 64 if height == 3 else 63)
    assert (drawn.int() - 200).abs().max() < 3


@pytest.mark.usefixtures("untrained")
def test_picture_that_is_lost_before_it_is_drawn_costs_no_other_result(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, read = IMAGES / "000002.png", batches.read_picture

    def read_and_lose(location: str) -> Tensor:
        picture = read(location)
        if location == str(lost):
            lost.unlink()
        return picture

    monkeypatch.setattr("pipeline.predict.batches.read_picture", read_and_lose)  # the writer has its own name for it
    with pytest.raises(ValueError, match=r"1 of 8 pictures could not be read, .*: detected on, but not drawn: No such"):
        main([str(IMAGES), "--output", "out"])
    assert len(json.loads(Path("out/coco.json").read_text())["images"]) == 8
    assert len(list(Path("out/pictures").iterdir())) == 7
