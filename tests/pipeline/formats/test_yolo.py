"""Laws of the YOLO reader: layouts, rows, paths, and no input that ends without a sentence."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, SplitFiles, read_splits
from pipeline.formats.root import Root
from pipeline.formats.sources import read_from
from tests.pipeline.formats.conftest import Source

TRAIN = {"train": SplitFiles("data.yaml", "")}
CONFIG = "train: images/train\nnames: [rod, disc]\n"


def read(source: Any, config: str = CONFIG, labels: str | bytes | None = None, **arguments: Any) -> Split:
    """The split train of data.yaml; with `labels`, images/train/a.png and its rows are there."""
    source.write("data.yaml", config)
    if labels is not None:
        source.write("images/train/a.png", source.png())
        source.write("labels/train/a.txt", labels)
    return read_splits("yolo", str(source.root), TRAIN, **arguments)[0]["train"]


def boxes(split: Split) -> list[Any]:
    return [pytest.approx([box["category_id"], *box["bbox"]]) for box in split.coco["annotations"]]


def test_rows_are_boxes_polygons_and_oriented_boxes_in_fractions_of_the_image(source: Any) -> None:
    # The image has 20 x 10 px: x = (0.5 - 0.2 / 2) * 20 = 8, y = (0.5 - 0.4 / 2) * 10 = 3, w = 0.2 * 20, h = 0.4 * 10.
    rows = ["1 0.5 0.5 0.2 0.4", "0 0.1 0.2 0.3 0.2 0.2 0.6", "0 0.2 0.1 0.4 0.3 0.3 0.5 0.1 0.4"]
    split = read(source, labels="\n".join(rows))
    assert split.coco["categories"] == [{"id": 0, "name": "rod"}, {"id": 1, "name": "disc"}]
    assert boxes(split) == [[1, 8, 3, 4, 4], [0, 2, 2, 4, 4], [0, 2, 1, 6, 4]]
    assert not split.dropped and not split.clipped and not split.notes


def test_row_that_is_no_box_is_dropped_with_its_number_and_reason(source: Any) -> None:
    rows = ["0 .5 .5 .2 .4", "0 .5 .5 .2 .4", "0 .5 .5 .2", "0 .5 .5 .2 .4 .9", "0 .5 x .2 .4", "2 .5 .5 .2 .4"]
    rows += ["-1 .5 .5 .2 .4", "rod .5 .5 .2 .4", "0 .5 .5 0 .4", "0 1.5 .5 .2 .4", "1 .1 .2 nan .2 .2 .6"]
    split = read(source, labels="\n".join(rows))
    columns = "columns; expected class and 4 numbers, or class and at least 3 corners x y"
    assert {finding.record: finding.reason for finding in split.dropped} == {
        "row 2": "repeated row; the first is kept",
        "row 3": f"4 {columns}",
        "row 4": f"6 {columns}",
        "row 5": "not four finite numbers",
        "row 6": "no class with index 2 in names",
        "row 7": "no class with index -1 in names",
        "row 8": "no class with index rod in names",
        "row 9": "zero area",
        "row 10": "completely outside the image",
        "row 11": "not four finite numbers",
    }
    assert (split.num_boxes, len(split.coco["annotations"])) == (11, 1)
    assert {finding.file for finding in split.dropped} == {f"{source.root}/labels/train/a.txt"}


def test_box_beyond_the_edge_is_clipped_but_rounding_of_six_decimals_is_no_finding(source: Any) -> None:
    # 0.916667 + 0.166667 / 2 = 1.0000005, an edge at 1 rounded to six decimals; 0.083333 - 0.166667 / 2 = -0.0000005.
    rows = ["0 0.916667 0.5 0.166667 1.0", "0 0.95 0.5 0.2 0.4", "0 0.083333 0.5 0.166667 1.0"]
    split = read(source, labels="\n".join(rows))
    assert [finding.record for finding in split.clipped] == ["row 2"]
    assert all(box["bbox"][0] + box["bbox"][2] <= 20 + 1e-6 for box in split.coco["annotations"])
    assert split.coco["annotations"][2]["bbox"][0] == 0
    assert split.coco["annotations"][1]["bbox"] == pytest.approx([17, 3, 3, 4])


def test_image_with_an_empty_or_no_label_file_is_a_negative_and_a_label_file_without_image_is_named(
    source: Any,
) -> None:
    for name in ("b", "c"):
        source.write(f"images/train/{name}.png", source.png(1))
    source.write("labels/train/b.txt", "\n")
    source.write("labels/train/gone.txt", "0 .5 .5 .2 .4")
    source.write("labels/train/classes.txt", "rod\ndisc")
    split = read(source, labels="0 .5 .5 .2 .4")
    assert [image["file_name"][-5:] for image in split.coco["images"]] == ["a.png", "b.png", "c.png"]
    assert split.notes == ["1 images have no label file and count as images without objects"]
    assert [(each.file.rpartition("/")[2], each.reason) for each in split.dropped] == [
        ("gone.txt", "image is missing; its 1 boxes are dropped too")
    ]
    assert (split.num_images, split.num_boxes) == (4, 2)


@pytest.mark.parametrize(
    ("config", "config_file", "images"),
    [
        ("path: .\ntrain: images/train\n", "data.yaml", "images/train"),
        ("train: ../train/images\n", "data.yaml", "train/images"),  # Roboflow
        ("train: ../train/images\n", "meta/data.yaml", "train/images"),
        ("path: ../datasets/cells\ntrain: images\n", "data.yaml", "images"),  # Ultralytics' own folder
        ("path: /content/cells\ntrain: train/images\n", "data.yaml", "train/images"),  # of another machine
        ("path: ../cells\ntrain: images\n", "meta/data.yaml", "cells/images"),
        ("train: [images/one, images/two]\n", "data.yaml", "images/two"),
        ("train: 'images\\train'\n", "data.yaml", "images/train"),
        ("train: all\n", "data.yaml", "all"),  # labels among the images
        ("train: images/train.txt\n", "data.yaml", "images/deep"),
    ],
)
def test_layouts_of_ultralytics_and_roboflow(source: Any, config: str, config_file: str, images: str) -> None:
    source.write(config_file, config + "names: {1: disc, 0: rod}\nnc: 2\n")
    source.write(f"{images}/a.png", source.png())
    source.write(f"{images.replace('images', 'labels')}/a.txt", "1 .5 .5 .2 .4")
    if config.endswith(".txt\n"):
        source.write("images/train.txt", "./deep/a.png\n")
    split = read_splits("yolo", str(source.root), {"train": SplitFiles(config_file, "")})[0]["train"]
    assert [image["file_name"] for image in split.coco["images"]] == [f"{images}/a.png"]
    assert [box["category_id"] for box in split.coco["annotations"]] == [1]
    assert split.coco["categories"] == [{"id": 0, "name": "rod"}, {"id": 1, "name": "disc"}]


def test_images_names_the_key_of_data_yaml(source: Any) -> None:
    source.write("data.yaml", "train: x\nvalid: images/v\nnames: [rod]\n")
    source.write("images/v/a.png", source.png())
    source.write("labels/v/a.txt", "0 .5 .5 .2 .4")
    files = {"val": SplitFiles("data.yaml", "valid")}
    assert len(read_splits("yolo", str(source.root), files)[0]["val"].coco["images"]) == 1
    with pytest.raises(ValueError, match=r"data\.val\.images: .*data\.yaml has no key 'val', but train, valid; name"):
        read_splits("yolo", str(source.root), {"val": SplitFiles("data.yaml", "")})


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: images/train\n"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (BOMB, "contains a YAML alias"),
        ("[" * 5000, "nested more than 10 levels"),
        ("a" * 2**21, "at most 262144"),
        ("names: [", "not valid YAML"),
        ("- rod", "expected a mapping"),
        ("train: images/train", "has no class names"),
        ("train: images/train\nnames: [rod, rod]", "'rod' twice"),
        ("train: images/train\nnames: {a: rod}", "not a class index"),
        ("train: images/train\nnames: [[rod]]", r"names\[0\] is not a name"),
        ("train: images/train\nnames: [rod]\nnc: 3", "nc does not agree"),
        ("train: {a: b}\nnames: [rod]", "train is not a path"),
        ("train: ../../secret\nnames: [rod]", "outside data.root"),
        ("train: /etc\nnames: [rod]", "outside data.root"),
        ("train: C:/me\nnames: [rod]", "outside data.root"),
        ("train: '%2e%2e/secret'\nnames: [rod]", "not a relative path below"),
        ("train: empty\nnames: [rod]", "there is no image in .*empty"),
        ("train: list.txt\nnames: [rod]", "there is no file .*list.txt"),
        ("train: !!python/object/apply:os.getcwd []\nnames: [rod]", "not valid YAML"),
    ],
)
def test_data_yaml_that_is_broken_hostile_or_leaves_the_root_is_one_sentence(
    source: Any, config: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, config, labels="0 .5 .5 .2 .4")
    assert "data.yaml" in str(raised.value)
    assert is_sentence(raised.value)


def test_text_file_may_name_images_from_path_or_root_but_none_outside(source: Any) -> None:
    source.write("meta/list.txt", f"images/train/a.png\n{source.root}/images/train/a.png\n")
    split = read(source, "train: meta/list.txt\nnames: [rod]", labels="0 .5 .5 .2 .4")
    assert len(split.coco["images"]) == 1
    assert [finding.reason for finding in split.dropped] == ["listed twice"]
    source.write("meta/list.txt", "../../secret.png")
    with pytest.raises(ValueError, match=r"list\.txt names '\.\./\.\./secret\.png' \(line 1\), which is outside"):
        read(source, "train: meta/list.txt\nnames: [rod]")


@pytest.mark.parametrize("name", ["images/train/b.png", "labels/train/a.txt", "images/train"])
def test_link_out_of_the_root_is_an_error(source: Any, name: str) -> None:
    source.write("labels/train/a.txt", "0 .5 .5 .2 .4")
    source.write("images/train/a.png" if name != "images/train" else "images/other.png", source.png())
    (source.root / name).unlink(missing_ok=True)
    outside = source.root.parent / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(source.png())
    target = outside if name == "images/train" else outside / "a.png"
    (source.root / name).symlink_to(target, target_is_directory=target.is_dir())
    with pytest.raises(ValueError, match=r"a link to .*outside"):
        read(source)


def test_file_whose_name_is_not_utf8_is_named(source: Any) -> None:
    name = os.fsdecode(b"caf\xe9")
    source.write(f"images/train/{name}.png", source.png())
    source.write(f"labels/train/{name}.txt", "0 .5 .5 .2 .4")
    with pytest.raises(ValueError, match=r"the name 'labels/train/caf\\udce9\.txt' is not UTF-8, .*; rename the file"):
        read(source)


def test_labels_in_another_place_or_not_utf8_stop_the_stage(source: Any) -> None:
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text"):
        read(source, labels=b"\xff\xfe0")
    (source.root / "labels/train/a.txt").rename(source.root / "a.txt")
    with pytest.raises(ValueError, match=r"none of 1 images has a label file; images/train/a\.png would have labels/"):
        read(source)


def test_root_may_be_a_url_and_manifest_follows_all_that_is_read(source: Any) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/rods/data.yaml", b"train: [images/train, list.txt]\nnames: [rod]\n")
    store.pipe("/rods/list.txt", b"images/more/b.png")
    store.pipe("/rods/images/train/a.png", source.png())
    store.pipe("/rods/images/more/b.png", source.png(1))
    store.pipe("/rods/labels/train/a.txt", b"0 .5 .5 .2 .4")
    splits, _ = read_splits("yolo", "memory://rods", TRAIN)
    files, folders = read_from(Root("memory://rods"), "yolo", TRAIN)
    store.rm("/rods", recursive=True)
    assert [image["file_name"] for image in splits["train"].coco["images"]] == [
        "images/train/a.png",
        "images/more/b.png",
    ]
    assert [each.path for each in files] == ["data.yaml", "list.txt"]
    assert [each.path for each in folders] == ["images/train", "images/more", "labels/train", "labels/more"]


def test_folder_behind_a_web_server_asks_for_a_text_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Root, "read", lambda *_, **__: CONFIG.encode())
    with pytest.raises(ValueError, match="http cannot list folders; name a text file"):
        read_splits("yolo", "http://127.0.0.1:9", TRAIN)


PIECES = st.sampled_from(
    ["0 .5 .5 .2 .4\n", "1e999", "-", " ", "\n", "nan", "\0", "../", "*a", "&a ", ": ", "[", "{", "9" * 30]
)


@settings(max_examples=200, deadline=None)
@given(
    target=st.sampled_from(["data.yaml", "labels/train/a.txt", "images/train.txt"]),
    place=st.integers(0, 60),
    cut=st.integers(0, 20),
    put=st.one_of(st.binary(max_size=12), st.lists(PIECES, max_size=6).map(lambda pieces: "".join(pieces).encode())),
)
def test_mutated_file_gives_valid_boxes_or_one_sentence(target: str, place: int, cut: int, put: bytes) -> None:
    files = {
        "data.yaml": b"path: .\ntrain: [images/train, images/train.txt]\nnames: {0: rod, 1: disc}\nnc: 2\n",
        "labels/train/a.txt": b"0 .5 .5 .2 .4\n1 .1 .2 .3 .2 .2 .6\n0 .2 .1 .4 .3 .3 .5 .1 .4\n",
        "images/train.txt": b"./train/a.png\nimages/train/b.png\n",
        "images/train/a.png": Source(Path()).png(),
    }
    files[target] = files[target][:place] + put + files[target][place + cut :]
    store = fsspec.filesystem("memory")
    store.pipe({f"/fuzzed/{name}": content for name, content in files.items()})
    try:
        split, error = read_splits("yolo", "memory://fuzzed", TRAIN)[0]["train"], None
    except ValueError as raised:
        split, error = None, raised
    store.rm("/fuzzed", recursive=True)
    assert error is None or is_sentence(error)
    if split is not None:
        json.dumps(split.coco, allow_nan=False)
        width, height = 20 + 1e-6, 10 + 1e-6
        for x, y, w, h in (box["bbox"] for box in split.coco["annotations"]):
            assert -1e-6 <= x < x + w <= width and -1e-6 <= y < y + h <= height
        lost = [int(found[1]) for each in split.dropped if (found := re.search(r"its (\d+) boxes", each.reason))]
        rows = sum("row" in each.record for each in split.dropped)
        assert split.num_boxes == len(split.coco["annotations"]) + rows + sum(lost)
