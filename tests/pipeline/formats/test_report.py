"""Laws of the report: every box of the source is counted once, and shared pictures are found."""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.formats import SplitFiles, format_report, read_splits, summarise


def test_picture_in_two_splits_is_a_leak(source: Any) -> None:
    source.write("images/copy.png", source.png())
    source.write("val.json", source.coco([source.image(5, "copy.png")], []))
    source.write("train.json", source.coco([source.image(1)], []))
    source.write("images/a.png", source.png())
    splits, _ = read_splits("coco", str(source.root), source.COCO_FILES | {"val": SplitFiles("val.json", "images")})
    digest = hashlib.sha256(source.png()).hexdigest()
    leaks = summarise(splits)["leaks"]
    images = {"train": ["images/a.png"], "val": ["images/copy.png"]}
    assert leaks == [{"kind": "identical", "sha256": digest, "images": images}]


def test_report_counts_every_box_of_the_source_once(source: Any) -> None:
    boxes = [
        source.box(1),
        source.box(2, [1, 1, 0, 0]),
        source.box(3, [-1, 0, 5, 5]),
        source.box(4, category_id=10),
        source.box(5, image_id=2),
        source.box(1),
    ]
    images = [source.image(1), source.image(2, "gone.png")]
    split = source.read_coco(source.coco(images, boxes, ("cell", "virus")), classes=["cell"])
    numbers = summarise({"train": split})["splits"]["train"]
    # kept 1 and 3; dropped 2 (empty), 5 (with its picture) and the second 1; 4 is of a class not chosen
    assert (numbers["boxes"], numbers["boxes_dropped"], numbers["boxes_clipped"]) == (2, 3, 1)
    assert numbers["boxes_per_class"] == {"cell": 2}
    # widths 3 and 4 (-1..4 cut to 0..4): the median lies in between
    assert numbers["width_px"]["median"] == 3.5


def test_printed_report_stops_after_so_many_reasons(source: Any) -> None:
    wrong = [[1, 1, 0, 0], [1, 1, -1, 2], [99, 1, 2, 2]]
    boxes = [source.box(number, box) for number, box in enumerate(wrong, start=1)]
    report = summarise({"train": source.read_coco(source.coco([source.image(1)], boxes))})
    text = format_report(report, shown=2, path="report.json")
    assert text.count("dropped: ") == 2
    assert text.endswith("all findings, one by one: report.json")
    assert "report.json" not in format_report(report, shown=3, path="report.json")
