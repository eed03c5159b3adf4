"""Laws of the LabelMe reader: shapes, the image of a JSON file, and no file that ends without a sentence."""

from __future__ import annotations

import json
from typing import Any

import fsspec
import pytest

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, SplitFiles, read_splits
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from pipeline.formats.sources import read_from

FILES = {"train": SplitFiles("json", "")}


def page(*shapes: Any, image: object = "a.png", **more: Any) -> str:
    """A JSON file as LabelMe 5 writes it; a shape is its type and its points, or any object."""
    content = [_shape(*shape) if isinstance(shape, tuple) else shape for shape in shapes]
    size = {"imageHeight": 10, "imageWidth": 20}
    return json.dumps(
        {"version": "5.5.0", "flags": {}, "shapes": content, "imagePath": image, "imageData": None} | size | more
    )


def _shape(kind: str | None, *points: tuple[float, float], label: str = "cell") -> dict[str, Any]:
    own = {} if kind is None else {"shape_type": kind}
    return {"label": label, "points": points, "group_id": None, "flags": {}, **own}


def read(source: Any, pages: dict[str, str], files: dict[str, SplitFiles] = FILES, **arguments: Any) -> Split:
    for name, text in pages.items():
        source.write(name, text)
    return read_splits("labelme", str(source.root), files, **arguments)[0]["train"]


def boxes(split: Split) -> list[Any]:
    return [pytest.approx(box["bbox"]) for box in split.coco["annotations"]]


def names(split: Split) -> list[str]:
    return [image["file_name"] for image in split.coco["images"]]


def test_rectangle_polygon_circle_and_mask_give_their_enclosing_box(source: Any) -> None:
    source.write("json/a.png", source.png())
    shapes = (
        ("rectangle", (7, 8), (2, 3)),  # corners in any order: x 2, y 3, w 7 - 2, h 8 - 3
        ("rectangle", (2, 3), (7, 3), (7, 8), (2, 8)),  # four corners, as X-AnyLabeling writes
        ("polygon", (4, 1), (9, 5), (6, 7)),  # x 4..9, y 1..7
        (None, (4, 1), (9, 5), (6, 7)),  # a polygon in a file before LabelMe 3.16
        ("circle", (10, 5), (13, 1)),  # radius sqrt(3^2 + 4^2) = 5
        ("mask", (3, 2), (6, 4)),  # first and last pixel: 4 columns, 3 rows
        ("oriented_rectangle", (5, 1), (8, 4), (6, 6), (3, 3)),
    )
    split = read(source, {"json/a.json": page(*shapes)})
    assert boxes(split) == [
        [2, 3, 5, 5],
        [2, 3, 5, 5],
        [4, 1, 5, 6],
        [4, 1, 5, 6],
        [5, 0, 10, 10],
        [3, 2, 4, 3],
        [3, 1, 5, 5],
    ]
    assert [box["id"] for box in split.coco["annotations"]] == [1, 2, 3, 4, 5, 6, 7]
    assert not split.dropped and not split.clipped and not split.resized


def test_shape_without_a_box_is_dropped_with_its_number_and_reason(source: Any) -> None:
    source.write("json/a.png", source.png())
    shapes = [
        ("line", (1, 1), (5, 5)),
        ("point", (1, 1)),
        ("linestrip", (1, 1), (5, 5), (6, 1)),
        ("circle", (1, 1)),
        ("polygon", (1, 1), (5, 5)),
        ("heptagon", (1, 1), (5, 5)),
        ("rectangle", (1, 1), (1, 5)),
        ("rectangle", (1, 1), (float("nan"), 5)),
        ("rectangle", (1, 1), ("2", 5)),
        {"label": "cell", "shape_type": "rectangle", "points": [[1], 2]},
        {"points": [[1, 1], [5, 5]], "shape_type": "rectangle"},
        {"label": "cell", "shape_type": ["rectangle"]},
        7,
        ("rectangle", (1, 1), (5, 5)),
    ]
    split = read(source, {"json/a.json": page(*shapes)})
    assert {finding.record: finding.reason for finding in split.dropped} == {
        "shape 1": "a shape of type line has no area",
        "shape 2": "a shape of type point has no area",
        "shape 3": "a shape of type linestrip has no area",
        "shape 4": "a circle with 1 points [x, y]",
        "shape 5": "a polygon with 2 points [x, y]",
        "shape 6": "unknown shape_type heptagon",
        "shape 7": "zero area",
        "shape 8": "not four finite numbers",
        "shape 9": "not four finite numbers",
        "shape 10": "a rectangle with 0 points [x, y]",
        "shape 11": "no class name",
        "shape 12": "unknown shape_type list",
        "shape 13": "not a JSON object",
    }
    assert (split.num_boxes, len(split.coco["annotations"])) == (14, 1)
    assert {finding.file for finding in split.dropped} == {f"{source.root}/json/a.json"}


def test_classes_are_the_labels_by_name_and_each_shape_of_a_group_is_an_object(source: Any) -> None:
    source.write("json/a.png", source.png())
    shapes = [_shape("rectangle", (1, 1), (5, 5), label=name) | {"group_id": 1} for name in ("rod", "disc", "rod")]
    split = read(source, {"json/a.json": page(*shapes)})
    assert split.coco["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "rod"}]
    assert [box["category_id"] for box in split.coco["annotations"]] == [2, 1, 2]


def test_difficult_shape_of_x_anylabeling_is_a_crowd_if_params_say_so(source: Any) -> None:
    source.write("json/a.png", source.png())
    shapes = [_shape("rectangle", (1, 1), (5, 5)) | {"difficult": hard} for hard in (True, False)]
    split = read(source, {"json/a.json": page(*shapes)}, difficult="crowd")
    assert [box["iscrowd"] for box in split.coco["annotations"]] == [1, 0]


@pytest.mark.parametrize(
    ("images", "image_path", "place"),
    [
        ("", "a.png", "json/deep/a.png"),
        ("", "../../img/a.png", "img/a.png"),
        ("", "..\\..\\img\\a.png", "img/a.png"),
        ("", "C:\\Users\\me\\a.png", "json/deep/a.png"),
        ("", "/data/mine/a.png", "json/deep/a.png"),
        ("", "../../../../secret/a.png", "json/deep/a.png"),
        ("", "gone.png", "json/deep/page.png"),  # the image of which LabelMe opens the file
        ("", None, "json/deep/page.JPG"),
        ("img", "a.png", "img/deep/a.png"),
        ("img", "../../img/a.png", "img/a.png"),
        ("img", "C:\\Users\\me\\a.png", "img/a.png"),
        ("img", "sub/a.png", "img/sub/a.png"),
        ("img", "https://server/a.png", "img/a.png"),
    ],
)
def test_image_is_where_image_path_says_else_that_of_the_same_name(
    source: Any, images: str, image_path: object, place: str
) -> None:
    source.write(place, source.png())
    files = {"train": SplitFiles("json", images)}
    split = read(source, {"json/deep/page.json": page(("rectangle", (1, 1), (5, 5)), image=image_path)}, files)
    assert names(split) == [place]
    assert not split.dropped


def test_link_out_of_the_root_is_an_error(source: Any) -> None:
    source.write("json/other.png", source.png())
    outside = source.root.parent / "secret.png"
    outside.write_bytes(source.png())
    (source.root / "json/a.png").symlink_to(outside)
    with pytest.raises(ValueError, match=r"a\.json names 'json/a\.png', a link to .*secret\.png, outside"):
        read(source, {"json/a.json": page()})


def test_missing_image_loses_its_boxes_and_images_without_a_file_are_counted(source: Any) -> None:
    source.write("json/b.png", source.png())
    source.write("json/c.png", source.png())
    pages = {"json/a.json": page(("rectangle", (1, 1), (5, 5))), "json/c.json": page(image="c.png")}
    splits, notes = {}, []
    for name, text in pages.items():
        source.write(name, text)
    splits, notes = read_splits("labelme", str(source.root), FILES)
    assert names(splits["train"]) == ["json/c.png"]
    assert [finding.reason for finding in splits["train"].dropped] == ["image is missing; its 1 boxes are dropped too"]
    assert notes == [
        "train: 1 images have no JSON file and are not read, e.g. json/b.png; an image without objects needs a file "
        "with `shapes: []`"
    ]


def test_image_of_two_files_has_the_boxes_of_both(source: Any) -> None:
    source.write("json/a.png", source.png())
    pages = {f"json/{name}.json": page(("rectangle", (1, 1), (5, side))) for name, side in (("x", 5), ("y", 6))}
    split = read(source, pages)
    assert (names(split), split.num_images) == (["json/a.png"], 1)
    assert boxes(split) == [[1, 1, 4, 4], [1, 1, 4, 5]]
    assert split.notes == ["1 annotations are of an image that an earlier one names, which has the boxes of all"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "a.json cannot be read as JSON of LabelMe"),
        ("[" * 100_000, "a.json cannot be read as JSON of LabelMe"),
        ('{"shapes": [{"points": [[1' + "0" * 5000 + ", 1]]}]}", "a.json cannot be read as JSON of LabelMe"),
        ("[]", "a.json has no list 'shapes', as LabelMe's files have; move it out"),
        ('{"images": [], "annotations": []}', "a.json has no list 'shapes'"),
        ('{"shapes": 3}', "a.json has no list 'shapes'"),
    ],
)
def test_file_of_something_else_stops_the_stage(source: Any, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, {"json/a.json": text})
    assert is_sentence(raised.value)


def test_folder_without_files_and_a_web_server_are_named(source: Any) -> None:
    source.write("json/._a.json", b"\0\5\x16\7")  # the file that macOS packs beside a.json
    with pytest.raises(ValueError, match=r"data\.train\.annotations: there is no JSON file of LabelMe in .*/json"):
        read(source, {})
    with pytest.raises(ValueError, match=r"https cannot list folders, which data\.format labelme needs"):
        read_splits("labelme", "https://localhost/data", FILES)


def test_root_may_be_a_url_and_the_manifest_follows_all_that_is_read(source: Any) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/cells/json/a.json", page(("rectangle", (1, 1), (5, 5)), image="..\\img\\a.png").encode())
    store.pipe("/cells/img/a.png", source.png())
    split = read_splits("labelme", "memory://cells", FILES)[0]["train"]
    store.rm("/cells", recursive=True)
    assert names(split) == ["img/a.png"]
    _, alone = read_from(Root("memory://cells"), "labelme", FILES)
    _, both = read_from(Root("memory://cells"), "labelme", {"train": SplitFiles("json", "img")})
    assert [[source.path for source in found] for found in (alone, both)] == [["json"], ["json", "img"]]


# ---- auto ------------------------------------------------------------------------------------------------------------


def found(source: Any, pages: dict[str, str], *images: str) -> dict[str, SplitFiles]:
    for name, text in pages.items():
        source.write(name, text)
    for image in images:
        source.write(image, source.png())
    resolved = look(Root(str(source.root)))
    assert resolved.format == "labelme"
    return resolved.files


def test_auto_finds_files_beside_their_images(source: Any) -> None:
    pages = {"a.json": page(("rectangle", (1, 1), (5, 5))), "sub/b.json": page(image="b.png")}
    assert found(source, pages, "a.png", "sub/b.png") == {"train": SplitFiles(".", "")}
    assert names(read(source, {}, {"train": SplitFiles(".", "")})) == ["a.png", "sub/b.png"]


def test_auto_finds_splits_by_their_folders(source: Any) -> None:
    pages = {f"{folder}/a.json": page(image="C:\\me\\a.png") for folder in ("train", "valid")}
    assert found(source, pages, "train/a.png", "valid/a.png") == {
        "train": SplitFiles("train", ""),
        "val": SplitFiles("valid", ""),
    }


def test_auto_finds_images_in_another_folder(source: Any) -> None:
    assert found(source, {"labels/a.json": page()}, "pictures/a.png") == {"train": SplitFiles("labels", "pictures")}


def test_auto_finds_a_file_whose_keys_are_sorted(source: Any) -> None:
    """imageData then comes before the shapes, and may have megabytes."""
    text = json.dumps(json.loads(page(imageData="A" * 2**20)), sort_keys=True)
    assert found(source, {"a.json": text}, "a.png") == {"train": SplitFiles(".", "")}
