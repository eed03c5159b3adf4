"""Laws of the checks of suspicious records and of their policies: hand-worked cases, overlaps against torchvision."""

from __future__ import annotations

import io
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import box_iou

from pipeline.formats import Split, format_report, read_splits, summarise
from pipeline.formats.checks import check_boxes, find_contradictions, iou_matrix, name_pairs
from pipeline.formats.records import CocoSplit
from pipeline.params.data import Checks, Columns

SIDES = st.floats(0.5, 50)
KEEP = Checks(
    strict=False,
    invalid="drop",
    outside="keep",
    unreadable="drop",
    size="keep",
    small="keep",
    small_px=3.0,
    duplicate="keep",
    duplicate_iou=0.9,
    whole_picture="keep",
    contradiction="keep",
    pixel_format="keep",
    grey="keep",
    orientation="keep",
    columns="keep",
    names="keep",
)
Row = tuple[int, int, list[float]]


def policies(**changes: Any) -> Checks:
    return KEEP.model_copy(update=changes)


def coco_of(*boxes: Row, crowds: tuple[int, ...] = (), digests: str = "abc") -> CocoSplit:
    """Images 1, 2 .. of 100 x 50 px with boxes (image, class, bbox)."""
    return {
        "info": {"root": "r", "split": "train"},
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 100, "height": 50, "sha256": digest}
            for n, digest in enumerate(digests, start=1)
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": xywh, "area": 1.0, "iscrowd": int(n in crowds)}
            for n, (i, c, xywh) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "virus"}],
    }


def found(*boxes: Row, crowds: tuple[int, ...] = (), **changes: Any) -> list[tuple[Any, ...]]:
    rows = check_boxes(coco_of(*boxes, crowds=crowds), policies(**changes))
    return [(row.check, row.annotation["id"] if row.annotation else None, row.reason) for row in rows]


# ---- what is found ---------------------------------------------------------------------------------------------------


def test_side_under_the_limit_is_small() -> None:
    assert found((1, 1, [0, 0, 3, 3]), (1, 1, [0, 9, 2.9, 40])) == [("small", 2, "a side under 3 px")]
    assert found((1, 1, [0, 0, 1, 1]), small_px=0.0) == []
    assert found((1, 1, [0, 0, 1, 1]), crowds=(1,)) == []


def test_box_of_the_whole_picture() -> None:
    assert found((1, 1, [0, 0, 100, 50])) == [("whole_picture", 1, "the box covers the whole picture")]
    assert found((1, 1, [0, 0, 98, 50])) == []
    assert found((1, 1, [0, 0, 100, 50]), crowds=(1,)) == []


def test_second_box_of_an_object_is_a_duplicate() -> None:
    # 10 x 10 against 10 x 9.5: IoU .95
    first, second = (1, 1, [10.0, 10.0, 10.0, 10.0]), [10.0, 10.0, 10.0, 9.5]
    assert found(first, (1, 1, second)) == [("duplicate", 2, "duplicate of annotation 1, IoU 0.950")]
    assert found(first, (1, 1, second), duplicate_iou=0.96) == []
    assert found(first, (1, 2, second)) == []
    assert found(first, (2, 1, second)) == []
    assert found(first, (1, 1, second), crowds=(2,)) == []


def test_duplicates_are_of_a_box_that_stays() -> None:
    """A chain: 2 repeats 1, and 3 repeats 2 but not 1, so 3 stays."""
    boxes = [(1, 1, [float(x), 0, 10, 10]) for x in (0, 1, 2)]
    assert found(*boxes, duplicate_iou=0.8) == [("duplicate", 2, "duplicate of annotation 1, IoU 0.818")]


@given(st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), min_size=1, max_size=8))
def test_overlaps_are_those_of_torchvision(boxes: list[tuple[float, float, float, float]]) -> None:
    xyxy = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=torch.float64)
    assert iou_matrix(boxes) == pytest.approx(box_iou(xyxy, xyxy).numpy(), abs=1e-12)


def test_one_picture_with_two_truths_is_a_contradiction() -> None:
    boxes: list[Row] = [(1, 1, [0, 0, 5, 5]), (2, 1, [0, 0, 5, 5]), (3, 1, [0, 0, 5, 6]), (4, 1, [0, 0, 5, 5])]
    rows = list(find_contradictions(coco_of(*boxes, digests="aaab")))
    assert [(row.image_id, row.reason) for row in rows] == [(3, "the same picture as 1.png, with other boxes")]


def test_names_that_differ_by_case_and_blanks() -> None:
    names = ["Traffic light", "car", "traffic_light", "Car", "bus", "traffic  Light"]
    pairs = [("Traffic light", "traffic_light"), ("car", "Car"), ("Traffic light", "traffic  Light")]
    assert name_pairs(names) == pairs


# ---- what becomes of it ----------------------------------------------------------------------------------------------

BOXES = {
    "fine": [[1, 2, 5, 4]],
    "small": [[1, 2, 2, 4], [1, 2, 9, 4]],
    "duplicate": [[1, 2, 10, 5], [1, 2, 10, 5.1]],
    "covering": [[0, 0, 20, 10]],
    "outside": [[-2, 0, 10, 5]],
    "invalid": [[3, 3, 0, 4], [3, 3, 4, 4]],
    "size": [[1, 2, 5, 4]],
    "modes": [[1, 2, 5, 4]],
    "grey": [[1, 2, 5, 4]],
    "turned": [[1, 2, 5, 4]],
    "unsited": [[1, 2, 5, 4]],
    "gone": [[1, 2, 5, 4]],
}
READ = BOXES.keys() - {"gone"}


def data_set(source: Any, checks: Checks) -> Split:
    """One image of 20 x 10 px with each kind of finding."""
    images, annotations = [], []
    for number, (name, own) in enumerate(BOXES.items(), start=1):
        more = {"width": 99} if name == "size" else {}
        more |= {} if name == "unsited" else {"site": "north"}
        images.append(source.image(number, f"{name}.png") | more)
        annotations += [source.box(len(annotations) + n, box, image_id=number) for n, box in enumerate(own, start=1)]
        buffer = io.BytesIO()
        mode, exif = {"modes": "RGBA", "grey": "L"}.get(name, "RGB"), Image.Exif()
        if name == "turned":
            exif[0x0112] = 3  # by 180 degrees
        Image.new(mode, (20, 10), number if mode == "L" else (number, 0, 0)).save(buffer, format="PNG", exif=exif)
        if name != "gone":
            source.write(f"images/{name}.png", buffer.getvalue())
    source.write("train.json", source.coco(images, annotations))
    columns = Columns(names=["site"], table=None, image=None)
    return read_splits("coco", str(source.root), source.COCO_FILES, checks=checks, columns=columns)[0]["train"]


def test_kept_findings_are_noticed_and_change_nothing(source: Any) -> None:
    split = data_set(source, KEEP)
    assert len(split.coco["images"]) == 11 and len(split.coco["annotations"]) == 13
    assert {(row.check, row.image) for row in split.noticed} == {
        ("small", "images/small.png"),
        ("duplicate", "images/duplicate.png"),
        ("whole_picture", "images/covering.png"),
        ("pixel_format", "images/modes.png"),
        ("grey", "images/grey.png"),
        ("orientation", "images/turned.png"),
        ("columns", "images/unsited.png"),
    }
    numbers = summarise({"train": split})["splits"]["train"]
    assert (numbers["images_grey"], numbers["images_turned"]) == (1, 1)
    others = {row.check for row in (*split.dropped, *split.clipped, *split.resized)}
    assert others == {"invalid", "unreadable", "outside", "size"}


@pytest.mark.parametrize(
    ("changes", "without", "boxes"),
    [
        ({"small": "drop"}, set(), 12),
        ({"small": "drop_image"}, {"small"}, 11),
        ({"duplicate": "drop"}, set(), 12),
        ({"duplicate": "drop_image"}, {"duplicate"}, 11),
        ({"whole_picture": "drop"}, set(), 12),
        ({"whole_picture": "drop_image"}, {"covering"}, 12),
        ({"outside": "drop_image"}, {"outside"}, 12),
        ({"invalid": "drop_image"}, {"invalid"}, 12),
        ({"size": "drop_image"}, {"size"}, 12),
        ({"pixel_format": "drop_image"}, {"modes"}, 12),
        ({"grey": "drop_image"}, {"grey"}, 12),
        ({"orientation": "drop_image"}, {"turned"}, 12),
        ({"columns": "drop_image"}, {"unsited"}, 12),
        ({"small": "drop_image", "duplicate": "drop", "size": "drop_image"}, {"small", "size"}, 9),
    ],
)
def test_policy_drops_the_box_or_its_image_and_nothing_else(
    changes: dict[str, Any], without: set[str], boxes: int, source: Any
) -> None:
    split = data_set(source, policies(**changes))
    assert {image["file_name"] for image in split.coco["images"]} == {f"images/{name}.png" for name in READ - without}
    assert len(split.coco["annotations"]) == boxes
    numbers = summarise({"train": split})["splits"]["train"]
    counted = (numbers["boxes"] + numbers["boxes_dropped"], numbers["images"] + numbers["images_dropped"])
    assert counted == (15, 12)  # those of the source
    assert len([row for row in split.dropped if row.record == "image"]) == 1 + len(without)


@pytest.mark.parametrize(
    "check", [name for name, field in Checks.model_fields.items() if "refuse" in get_args(field.annotation)]
)
def test_every_check_can_refuse_and_says_what_it_found(check: str, source: Any) -> None:
    first = rf"data\.checks refuses them; correct them, or choose another policy:\n  {check}: 1, the first: "
    if check in ("contradiction", "names"):
        source.write("images/b.png", source.png())
        both = [source.image(1), source.image(2, "b.png")]
        with pytest.raises(ValueError, match=first):
            source.read_coco(source.coco(both, [source.box(1)], ("cell", "Cell")), checks=policies(**{check: "refuse"}))
    else:
        with pytest.raises(ValueError, match=f"{first}images/"):
            data_set(source, policies(**{check: "refuse"}))


def test_strict_refuses_any_finding_but_not_what_other_parameters_leave_out(source: Any) -> None:
    with pytest.raises(ValueError, match="strict is true") as error:
        data_set(source, policies(strict=True))
    assert {line.strip().partition(":")[0] for line in str(error.value).splitlines()[1:]} == {
        *("unreadable", "invalid", "outside", "size", "small", "duplicate", "whole_picture", "pixel_format"),
        *("grey", "orientation", "columns"),
    }
    text = source.coco([source.image(1)], [source.box(1), source.box(2, category_id=10)], ("cell", "virus"))
    split = source.read_coco(text, checks=policies(strict=True), classes=["cell"])
    assert len(split.coco["annotations"]) == 1


def test_grey_pictures_alone_are_counted_and_are_no_finding(source: Any) -> None:
    split = source.read_coco(source.coco([source.image(1)], [source.box(1)]), checks=policies(grey="refuse"))
    assert not split.noticed
    assert summarise({"train": split})["splits"]["train"]["images_grey"] == 1


def test_screen_has_a_line_per_reason_whatever_their_number(source: Any) -> None:
    boxes = [source.box(n, [1, 2, 0, 4]) for n in range(1, 501)]
    report = summarise({"train": source.read_coco(source.coco([source.image(1)], boxes), checks=KEEP)})
    lines = format_report(report, shown=12, path="r.json").splitlines()
    assert len(lines) < 20
    (line,) = [line for line in lines if line.startswith("dropped: ")]
    assert line.startswith("dropped: images/a.png annotation 1 cell") and line.endswith(", and 499 more")
    assert lines[-1] == "all findings, one by one: r.json"
