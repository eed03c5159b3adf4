"""Laws of the COCO reader and of what may train: what comes through, what is dropped, and why."""

from __future__ import annotations

import hashlib
import io
import json
import math
from typing import Any

import pytest
from PIL import Image

from pipeline.formats import Split, read_splits, summarise


def reasons(split: Split) -> list[str]:
    return [finding.reason for finding in split.dropped]


def test_coco_keeps_ids_numbers_crowds_and_segment_areas(source: Any) -> None:
    large = 900100204805  # beyond 2^31, as the crowds of COCO 2017
    boxes = [
        source.box(large, [1.5, 2.25, 3.125, 4.1], image_id=99, iscrowd=1, area=5.5, segmentation={"size": [1, 1]}),
        source.box(3, [0, 0, 4, 2], image_id=99, category_id=10),
    ]
    split = source.read_coco(source.coco([source.image(99)], boxes, ("cell", "virus")))

    digest = hashlib.sha256(source.png()).hexdigest()
    assert split.coco == {
        "info": {"root": str(source.root), "split": "train"},
        "images": [{"id": 99, "file_name": "images/a.png", "width": 20, "height": 10, "sha256": digest}],
        "annotations": [
            {"id": large, "image_id": 99, "category_id": 7, "bbox": [1.5, 2.25, 3.125, 4.1], "area": 5.5, "iscrowd": 1},
            # no area in the file: 4 * 2
            {"id": 3, "image_id": 99, "category_id": 10, "bbox": [0.0, 0.0, 4.0, 2.0], "area": 8.0, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "cell"}, {"id": 10, "name": "virus"}],
    }
    assert not split.dropped and not split.clipped and not split.resized


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 1, 0, 3]}, "zero area"),
        ({"bbox": [1, 1, 3, 1e-12]}, "zero area"),  # 1 + 1e-12 is 1 in float32
        ({"bbox": [5, 5, -2, 3]}, "negative width or height"),
        ({"bbox": [1, 1, math.nan, 3]}, "not four finite numbers"),
        ({"bbox": [1, 1, math.inf, 3]}, "not four finite numbers"),
        ({"bbox": [1, 1, 10**400, 3]}, "not four finite numbers"),
        ({"bbox": [1, 1, 3]}, "not four finite numbers"),
        ({"bbox": ["1", True, 3, 3]}, "not four finite numbers"),
        ({"bbox": None}, "no bbox, and no segmentation that gives one"),
        ({"bbox": [20, 1, 3, 3]}, "completely outside the image"),
        ({"bbox": [-3, 1, 3, 3]}, "completely outside the image"),
        ({"bbox": [1, 10, 3, 3]}, "completely outside the image"),
        ({"category_id": 8}, "no category with id 8"),
        ({"category_id": [7]}, "no category with id [7]"),
        ({"image_id": 2}, "no image record with id 2"),
        ({"image_id": "1"}, "no image record with id 1"),
    ],
)
def test_box_that_cannot_train_is_dropped_with_its_reason(source: Any, change: Any, reason: str) -> None:
    split = source.read_coco(source.coco([source.image(1)], [source.box(1, **change), source.box(2)]))
    assert reasons(split) == [reason]
    assert split.dropped[0].record == "annotation 1"
    assert split.dropped[0].file == f"{source.root}/train.json"
    assert [kept["id"] for kept in split.coco["annotations"]] == [2]


def test_finding_shows_image_class_and_box_as_the_file_has_them(source: Any) -> None:
    split = source.read_coco(source.coco([source.image(1)], [source.box(5, [504, 337.25, 0, 0])]))
    assert split.dropped[0]._asdict() == {
        "split": "train",
        "file": f"{source.root}/train.json",
        "image": "images/a.png",
        "record": "annotation 5",
        "category": "cell",
        "box": "[504, 337.25, 0, 0]",
        "reason": "zero area",
        "check": "invalid",
    }


def test_annotation_that_stands_twice_counts_once(source: Any) -> None:
    split = source.read_coco(source.coco([source.image(1)], [source.box(4), source.box(4), source.box(5)]))
    assert reasons(split) == ["repeated annotation; the first is kept"]
    assert [kept["id"] for kept in split.coco["annotations"]] == [4, 5]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_id_that_no_int64_holds_is_an_error(source: Any, number: int) -> None:
    with pytest.raises(ValueError, match=rf"images\[0\] has the id {number}; expected an integer of at most 64"):
        source.read_coco(source.coco([source.image(number)], []))


def test_image_record_that_stands_twice_counts_once(source: Any) -> None:
    split = source.read_coco(source.coco([source.image(1), source.image(1)], [source.box(1)]))
    assert reasons(split) == ["repeated image record"]
    assert (len(split.coco["images"]), len(split.coco["annotations"])) == (1, 1)


def test_box_that_sticks_out_is_cut_and_reported_but_kept(source: Any) -> None:
    # x -2..3 -> 0..3 and y 8..12 -> 8..10; the area follows: 3 * 2
    split = source.read_coco(
        source.coco([source.image(1)], [source.box(1, [-2, 8, 5, 4]), source.box(2, [-2, 8, 5, 4], area=9.5)])
    )
    assert [kept["bbox"] for kept in split.coco["annotations"]] == [[0.0, 8.0, 3.0, 2.0]] * 2
    assert [kept["area"] for kept in split.coco["annotations"]] == [6.0, 9.5]
    assert [finding.box for finding in split.clipped] == ["[-2, 8, 5, 4]"] * 2
    assert not split.dropped


def test_images_without_boxes_are_kept(source: Any) -> None:
    split = source.read_coco(source.coco([source.image(1)], []))
    assert len(split.coco["images"]) == 1
    assert split.coco["annotations"] == []
    numbers = summarise({"train": split})["splits"]["train"]
    assert (numbers["images_without_boxes"], numbers["width_px"]) == (1, {})


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_picture_that_does_not_decode_drops_its_image_and_boxes(source: Any, kind: str) -> None:
    content = {"empty": b"", "text": b"no picture", "truncated": source.png()[:-30]}
    source.write("images/b.png", content[kind])
    split = source.read_coco(
        source.coco([source.image(1), source.image(2, "b.png")], [source.box(1), source.box(2, image_id=2)])
    )
    assert [kept["id"] for kept in split.coco["images"]] == [1]
    assert [kept["id"] for kept in split.coco["annotations"]] == [1]
    (finding,) = split.dropped
    assert finding.image == "images/b.png"
    assert finding.reason.startswith("image cannot be read")
    assert finding.reason.endswith("its 1 boxes are dropped too")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_report_of_a_broken_picture_is_the_same_each_time(source: Any, content: bytes) -> None:
    source.write("images/b.png", content)
    file = source.coco([source.image(1), source.image(2, "b.png")], [])
    reports, kept = [], []
    for _ in range(3):
        kept.append(split := source.read_coco(file))  # kept, so that no address is used again
        reports.append(json.dumps(summarise({"train": split})))
        kept.append(bytearray(10_000))
    assert len(set(reports)) == 1
    assert " at 0x" not in reports[0]


def test_truncated_jpeg_is_noticed(source: Any) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 80).save(buffer, format="JPEG")
    source.write("images/b.jpg", buffer.getvalue()[:-400])
    split = source.read_coco(source.coco([source.image(1), source.image(2, "b.jpg")], []))
    assert [finding.image for finding in split.dropped] == ["images/b.jpg"]


def test_missing_picture_drops_its_image_and_boxes(source: Any) -> None:
    split = source.read_coco(
        source.coco(
            [source.image(1), source.image(2, "gone.png")], [source.box(1, image_id=2), source.box(2, image_id=2)]
        )
    )
    assert reasons(split) == ["image is missing; its 2 boxes are dropped too"]
    numbers = summarise({"train": split})["splits"]["train"]
    assert (numbers["images_dropped"], numbers["boxes_dropped"]) == (1, 2)


def test_true_size_of_the_picture_wins_over_the_annotation(source: Any) -> None:
    split = source.read_coco(source.coco([source.image(1, width=40)], [source.box(1, [15, 1, 10, 2])]))
    assert (split.coco["images"][0]["width"], split.coco["images"][0]["height"]) == (20, 10)
    assert [finding.reason for finding in split.resized] == ["annotation says 40x10 px, the image has 20x10 px"]
    assert split.coco["annotations"][0]["bbox"] == [15.0, 1.0, 5.0, 2.0]


def test_annotation_without_a_size_is_no_contradiction(source: Any) -> None:
    split = source.read_coco(source.coco([{"id": 1, "file_name": "a.png"}], []))
    assert split.coco["images"][0]["width"] == 20
    assert not split.resized


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as COCO JSON"),
        ("[]", "has no list 'images'"),
        ({"categories": None}, "has no list 'categories'"),
        ({"images": [1]}, "an entry in 'images' that is not a JSON object"),
        ({"annotations": [{"id": True}]}, r"annotations\[0\] has the id True; expected an integer"),
        ({"images": [{"id": 1}]}, r"images\[0\] \(id 1\) has the file_name None"),
        (
            {"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]},
            "id 1 is used for images/a and images/b",
        ),
        ({"categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "cell"}]}, "name 'cell' occurs twice"),
        ({"categories": []}, "no class occurs"),
    ],
)
def test_broken_coco_file_gets_one_sentence(source: Any, content: Any, sentence: str) -> None:
    if not isinstance(content, str):
        content = json.dumps(json.loads(source.coco([source.image(1)], [])) | content)
    with pytest.raises(ValueError, match=sentence):
        source.read_coco(content)


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_missing_annotation_file_names_the_file_and_the_key(source: Any, name: str) -> None:
    files = source.COCO_FILES if name == "coco" else source.VOC_FILES
    with pytest.raises(ValueError, match=rf"data.train.annotations: there is no file .*{files['train'].annotations}"):
        read_splits(name, str(source.root), files)


def test_unknown_format_names_the_known_ones(source: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.format is 'lvis'; expected one of coco, voc, yolo"):
        read_splits("lvis", str(source.root), source.COCO_FILES)


def test_picture_lying_by_its_exif_has_the_size_as_it_is_seen(source: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter when shown
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, format="JPEG", exif=exif)
    source.write("images/b.jpg", buffer.getvalue())
    images = [source.image(1, "b.jpg"), source.image(2, "b.jpg", width=10, height=20)]
    split = source.read_coco(source.coco(images, []))
    assert [(kept["width"], kept["height"]) for kept in split.coco["images"]] == [(10, 20)] * 2
    (finding,) = split.resized
    assert finding.reason.endswith("its boxes seem to ignore the image's EXIF orientation")


def test_annotation_without_bbox_has_the_box_of_its_segmentation(source: Any) -> None:
    """Hand-worked in test_segmentation.py; a bbox that is there is taken as it is."""
    polygon, runs = [[4, 1, 9, 5.5, 6, 7]], {"size": [4, 4], "counts": "52114"}
    boxes = [
        source.box(1, segmentation=polygon),
        source.box(2, None, segmentation=polygon),
        source.box(3, [], segmentation=runs, area=5),
        source.box(4, None),
        source.box(5, None, segmentation=[[]]),
        source.box(2, None, segmentation=runs),  # another object of the same id
        source.box(2, None, segmentation=polygon),
    ]
    del boxes[1]["bbox"]
    split = source.read_coco(source.coco([source.image(1)], boxes))
    assert [(box["bbox"], box["area"]) for box in split.coco["annotations"]] == [
        ([1, 2, 3, 4], 12),
        ([4, 1, 5, 6], 30),
        ([1, 0, 2, 3], 5),
        ([1, 0, 2, 3], 6),
    ]
    assert [(finding.record, finding.reason) for finding in split.dropped] == [
        ("annotation 4", "no bbox, and no segmentation that gives one"),
        ("annotation 5", "no bbox, and no segmentation that gives one"),
        ("annotation 2", "repeated annotation; the first is kept"),
    ]
