"""Pictures of more than 8 bits are the same everywhere: in prepare, training, detection, and on the sheets."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.formats import Split as ReadSplit
from pipeline.formats import SplitFiles, format_report, read_splits, summarise
from pipeline.reports.pictures import TILE
from pipeline.reports.sample_images import draw_sample_images, sheet_picture
from retinanet.data.pictures import read_picture
from retinanet.data.splits import Split

# 0..65535 from left to right, in steps of 240.
RAMP = np.broadcast_to(np.linspace(0, 65535, TILE).astype(np.uint16), (100, TILE))
SHOWN = (RAMP >> 8).astype(np.uint8)


def read_pictures(root: Path, images: dict[str, Image.Image]) -> tuple[ReadSplit, list[str]]:
    """The prepared split of these pictures, each with one box."""
    for name, image in images.items():
        image.save(root / name)
    content: Any = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(images)],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [2, 2, 5, 5]} for n in range(len(images))
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / "train.json").write_text(json.dumps(content))
    splits, notes = read_splits("coco", str(root), {"train": SplitFiles("train.json", ".")})
    return splits["train"], notes


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_are_the_same_pixels_wherever_they_are_read(tmp_path: Path, name: str, order: str) -> None:
    prepared, notes = read_pictures(tmp_path, {name: Image.fromarray(RAMP.astype(order))})
    assert (prepared.coco["images"][0]["width"], prepared.coco["images"][0]["height"]) == (TILE, 100)
    assert not notes and not prepared.dropped

    split = Split(prepared.coco)
    expected = np.repeat(SHOWN[None], 3, axis=0)
    np.testing.assert_array_equal(split.picture(0).numpy(), expected)  # training and evaluation
    np.testing.assert_array_equal(read_picture(str(tmp_path / name)).numpy(), expected)  # detection
    np.testing.assert_array_equal(np.asarray(sheet_picture(split, 0, ([], [], [])).image).transpose(2, 0, 1), expected)
    # a tile is as wide as the ramp, so the sheet shows its pixels; the row is below title and box
    sheet = np.asarray(
        Image.open(io.BytesIO(draw_sample_images(split, {0: ([], [], [])}, score_threshold=0.5))).convert("L")
    )
    assert any((np.abs(row[12 : 12 + TILE].astype(int) - SHOWN[0]) <= 1).all() for row in sheet)


@pytest.mark.slow  # imports MLflow
def test_16_bits_are_the_same_pixels_in_the_served_model(tmp_path: Path) -> None:
    from pipeline.tracking.serving import read_image

    Image.fromarray(RAMP).save(tmp_path / "a.png")
    expected = np.repeat(SHOWN[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), expected)
    np.testing.assert_array_equal(read_image((tmp_path / "a.png").read_bytes()), expected)


@pytest.mark.parametrize(("mode", "kind"), [("F", "floats"), ("I", "integers")])
def test_pixels_of_32_bits_stop_prepare_with_one_sentence(tmp_path: Path, mode: str, kind: str) -> None:
    deep = Image.new(mode, (20, 10), 200)
    begin = rf"{tmp_path}/b\.tif cannot be read: its pixels are 32-bit {kind} \(mode {mode}\), "
    advice = "which define no black and white; scale them to 8 or 16 bits"
    sentence = begin + advice + "; the same applies to 1 more of train$"
    with pytest.raises(ValueError, match=sentence):
        read_pictures(tmp_path, {"a.png": Image.new("L", (20, 10)), "b.tif": deep, "c.tif": deep})


@pytest.mark.parametrize(("brightest", "is_noted"), [(0x0FFF, True), (0x1000, False)])
def test_12_bits_in_16_are_noted(tmp_path: Path, brightest: int, is_noted: bool) -> None:
    dark = Image.fromarray(np.full((10, 20), brightest, dtype=np.uint16))
    split, notes = read_pictures(tmp_path, {"a.png": dark, "b.png": Image.new("L", (20, 10), 255)})
    sentence = (
        "train: its 1 16-bit images have no value above 4095 of 65535 and come out almost black; if they hold "
        "12 bits or fewer, scale them to the full range first"
    )
    assert notes == ([sentence] if is_noted else [])
    assert (sentence in format_report(summarise({"train": split}, notes), shown=0, path="")) == is_noted
