"""Laws of the page of the data: figures by hand, one file without the network, and names that are text."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data_page.figures import draw_overview, measure_boxes
from pipeline.data_page.page import build_page
from pipeline.data_page.thumbnails import SIDE, draw_thumbnail
from pipeline.formats.records import CocoSplit
from pipeline.formats.root import Root
from pipeline.prepare import FIGURE, PAGE, main


def split_of(folder: Path, names: tuple[str, ...] = ("cell", "virus")) -> CocoSplit:
    """Two images of 400 x 200 px, the first with a box of 40 x 10 and one of 20 x 80, the second without."""
    for name in "ab":
        Image.new("RGB", (400, 200), (90, 90, 90)).save(folder / f"{name}.png")
    rows = [(1, 7, [100, 50, 40, 10]), (2, 9, [0, 0, 20, 80])]
    return {
        "info": {"root": str(folder), "split": "train"},
        "images": [
            {"id": number, "file_name": f"{name}.png", "width": 400, "height": 200, "sha256": ""}
            for number, name in enumerate("ab", start=4)
        ],
        "annotations": [
            {"id": n, "image_id": 4, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, label, box in rows
        ],
        "categories": [{"id": number, "name": name} for number, name in zip((7, 9), names, strict=True)],
    }


def finding(**changes: str) -> dict[str, str]:
    known = {"split": "train", "file": "train.json", "image": "a.png", "record": "annotation 3", "category": "cell"}
    return known | {"box": "[1, 2, 0, 4]", "reason": "zero area"} | changes


def report(**lists: Any) -> dict[str, Any]:
    images = ["images", "images_without_boxes", "images_dropped"]
    boxes = ["boxes", "boxes_dropped", "boxes_clipped", "boxes_crowd"]
    numbers = {name: place for place, name in enumerate(images + boxes, start=101)}
    return {
        "splits": {"train": numbers},
        "notes": [],
        "leaks": [],
        "dropped": [],
        "clipped": [],
        "resized": [],
        "noticed": [],
    } | lists


def page(folder: Path, names: tuple[str, ...] = ("cell", "virus"), **lists: Any) -> str:
    return build_page({"train": split_of(folder, names)}, report(**lists), title="mine", figure=b"png")


def test_measures_by_hand(tmp_path: Path) -> None:
    boxes = measure_boxes(split_of(tmp_path))
    assert (boxes.per_class, boxes.per_image.tolist()) == ([1, 1], [2, 0])
    assert boxes.sizes == pytest.approx([20 / 200, 40 / 200])
    assert boxes.ratios == pytest.approx([0.25, 4])


def test_split_without_boxes_or_images_can_be_drawn(tmp_path: Path) -> None:
    full = split_of(tmp_path)
    empty: CocoSplit = {**full, "images": [], "annotations": []}
    assert draw_overview({"train": full, "val": empty}).get_axes()
    assert draw_overview({"train": empty}).get_axes()


def test_page_loads_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, dropped=[finding()])
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 4  # the figure, a finding, and a picture of each class
    assert all(source.startswith("data:image/") for source in sources)
    assert "://" not in re.sub(r'"data:[^"]*"', "", text)


def test_names_of_a_data_set_are_text(tmp_path: Path) -> None:
    text = page(tmp_path, ("<script>alert(1)</script>", "a&b"), notes=["<b>"], dropped=[finding(reason="<img>")])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>" not in text and "a&amp;b" in text and "&lt;img&gt;" in text


def test_findings_are_counted_by_reason_without_its_numbers(tmp_path: Path) -> None:
    sizes = [finding(reason=f"annotation says {n}x20 px", image="gone.png") for n in range(5)]
    text = page(tmp_path, dropped=[finding(), finding(box="[nan, 1, 2, 3]")], resized=sizes)
    rows = re.findall(r'badge">(\w+)</span></td><td class="number">(\d+)</td><td>([^<]*)<', text)
    assert rows == [("dropped", "2", "zero area"), ("resized", "5", "annotation says NxN px")]
    assert "Nothing was dropped" in page(tmp_path)


def test_boxes_lie_on_the_thumbnail_where_they_are(tmp_path: Path) -> None:
    split_of(tmp_path)
    small = draw_thumbnail(Root(str(tmp_path)), "a.png", [(100, 50, 200, 100)])
    assert small is not None and (small.width, small.height) == (SIDE, SIDE // 2)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(small.uri.partition(",")[2]))), dtype=int)
    pink = np.argwhere((pixels[..., 0] - pixels[..., 1]) > 90)
    scale = SIDE / 400
    expected = [50 * scale, 100 * scale, 150 * scale, 300 * scale]
    assert [*pink.min(axis=0), *(pink.max(axis=0) + 1)] == pytest.approx(expected, abs=2)
    assert draw_thumbnail(Root(str(tmp_path)), "gone.png", []) is None
    assert draw_thumbnail(Root(str(tmp_path)), "../gone.png", []) is None


@pytest.mark.usefixtures("project")
def test_prepare_writes_page_and_figure_the_same_each_time() -> None:
    main([])
    first = [path.read_bytes() for path in (PAGE, FIGURE)]
    assert b"drawn shapes" in first[0] and first[1].startswith(b"\x89PNG")
    main([])
    assert [path.read_bytes() for path in (PAGE, FIGURE)] == first
