"""Laws of the CVAT reader: shapes, rotation, subsets, memory, and no file that ends without a sentence."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import fsspec
import pytest

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, SplitFiles, read_splits
from pipeline.formats.cvat import _parse
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from pipeline.formats.sources import read_from

FILES = {"train": SplitFiles("annotations.xml", "")}
LABELS = ("rod", "disc")
BOX = '<box label="rod" source="manual" occluded="0" xtl="1.00" ytl="2.00" xbr="4.00" ybr="6.00" z_order="0"></box>'


def label(name: str, kind: str = "any", more: str = "") -> str:
    return f"<label><name>{name}</name><color>#ff0000</color><type>{kind}</type><attributes></attributes>{more}</label>"


def image(name: str = "a.png", *shapes: str, subset: str = "", number: int = 0) -> str:
    own = f' subset="{subset}" task_id="3"' if subset else ""
    return f'<image id="{number}" name="{name}"{own} width="20" height="10">{"".join(shapes)}</image>'


def export(
    *images: str, labels: tuple[str, ...] = tuple(map(label, LABELS)), kind: str = "task", more: str = ""
) -> str:
    """annotations.xml of a task, a job or a project."""
    meta = f"<meta><{kind}><id>3</id><labels>{''.join(labels)}</labels>{more}</{kind}><dumped>2026</dumped></meta>"
    content = f"<version>1.1</version>\n{meta}\n" + "\n".join(images)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{content}</annotations>\n'


def read(source: Any, text: str, files: dict[str, SplitFiles] = FILES, **arguments: Any) -> Split:
    source.write("images/a.png", source.png())
    source.write("annotations.xml", text)
    return read_splits("cvat", str(source.root), files, **arguments)[0]["train"]


def boxes(split: Split) -> list[Any]:
    return [pytest.approx(box["bbox"]) for box in split.coco["annotations"]]


def names(split: Split) -> list[str]:
    return [image["file_name"] for image in split.coco["images"]]


def test_each_shape_gives_its_enclosing_box(source: Any) -> None:
    cuboid = {"tl1": (2, 3), "bl1": (2, 7), "tr1": (5, 3), "br1": (5, 7)}
    cuboid |= {"tl2": (4, 1), "bl2": (4, 6), "tr2": (8, 1), "br2": (8, 6)}
    corners = " ".join(f'x{name}="{x}" y{name}="{y}"' for name, (x, y) in cuboid.items())
    shapes = (
        BOX,
        '<polygon label="disc" occluded="1" points="4.00,1.00;9.00,5.50;6.00,7.00" z_order="0"/>',
        '<ellipse label="disc" cx="10" cy="5" rx="3" ry="2"/>',
        '<mask label="rod" rle="0, 3, 1, 2" left="3" top="2" width="3" height="2"/>',
        f'<cuboid label="rod" {corners}/>',
    )
    split = read(source, export(image("a.png", *shapes)))
    assert boxes(split) == [[1, 2, 3, 4], [4, 1, 5, 6], [7, 3, 6, 4], [3, 2, 3, 2], [2, 1, 6, 6]]
    assert [box["category_id"] for box in split.coco["annotations"]] == [1, 2, 2, 1, 1]
    assert not split.dropped and not split.clipped and not split.resized


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # a box of 8 x 2 px about (10, 5): a quarter turn swaps its sides
        ('<box label="rod" xtl="6" ytl="4" xbr="14" ybr="6" rotation="90.00"/>', [9, 1, 2, 8]),
        ('<box label="rod" xtl="6" ytl="4" xbr="14" ybr="6" rotation="180.00"/>', [6, 4, 8, 2]),
        # by 30 degrees: width 8 cos + 2 sin = 6.92820 + 1, height 8 sin + 2 cos = 4 + 1.73205
        ('<box label="rod" xtl="6" ytl="4" xbr="14" ybr="6" rotation="30.00"/>', [6.03590, 2.13397, 7.92820, 5.73205]),
        ('<box label="rod" xtl="6" ytl="4" xbr="14" ybr="6" rotation="330.00"/>', [6.03590, 2.13397, 7.92820, 5.73205]),
        # radii 4 and 1 by 30 degrees: half width sqrt(16 * 3 / 4 + 1 / 4) = 3.5, half height sqrt(16 / 4 + 3 / 4)
        ('<ellipse label="rod" cx="10" cy="5" rx="4" ry="1" rotation="30"/>', [6.5, 5 - 4.75**0.5, 7, 2 * 4.75**0.5]),
    ],
)
def test_rotated_shape_gives_the_box_that_encloses_it(source: Any, shape: str, expected: list[float]) -> None:
    split = read(source, export(image("a.png", shape)))
    (found,) = split.coco["annotations"]
    assert found["bbox"] == pytest.approx(expected, abs=1e-5)
    assert not split.clipped


def test_shape_without_a_box_is_dropped_with_its_number_and_reason(source: Any) -> None:
    shapes = (
        '<polyline label="rod" points="1,1;5,5"/>',
        '<points label="rod" points="1,1"/>',
        '<tag label="rod"/>',
        '<skeleton label="rod"><points label="1" outside="0" points="1,1"/></skeleton>',
        '<heptagon label="rod"/>',
        '<box label="tube" xtl="1" ytl="2" xbr="4" ybr="6"/>',
        '<box xtl="1" ytl="2" xbr="4" ybr="6"/>',
        '<box label="rod" xtl="1" ytl="2" xbr="4"/>',
        '<box label="rod" xtl="1" ytl="2" xbr="4" ybr="6" rotation="much"/>',
        '<polygon label="rod" points="1,1;5"/>',
        '<box label="rod" xtl="4" ytl="2" xbr="1" ybr="6"/>',
        BOX,
    )
    split = read(source, export(image("a.png", *shapes)))
    assert {finding.record: finding.reason for finding in split.dropped} == {
        "object 1": "a shape of type polyline has no area",
        "object 2": "a shape of type points has no area",
        "object 3": "a shape of type tag has no area",
        "object 4": "a shape of type skeleton has no area",
        "object 5": "unknown shape heptagon",
        "object 6": "no such label in <meta>",
        "object 7": "no class name",
        "object 8": "not four finite numbers",
        "object 9": "not four finite numbers",
        "object 10": "not four finite numbers",
        "object 11": "negative width or height",
    }
    assert (split.num_boxes, boxes(split)) == (12, [[1, 2, 3, 4]])


@pytest.mark.parametrize("kind", ["task", "job", "project"])
def test_classes_are_the_labels_in_their_order_but_for_those_that_mark_no_area(source: Any, kind: str) -> None:
    sublabel = label("nose", "points", "<parent>person</parent>")
    labels = (label("rod"), label("way", "polyline"), label("person", "skeleton"), sublabel, label("disc", "polygon"))
    split = read(source, export(image("a.png", BOX), labels=labels, kind=kind))
    assert split.coco["categories"] == [{"id": 1, "name": "rod"}, {"id": 2, "name": "disc"}]


def test_classes_of_a_file_without_meta_are_the_labels_that_occur(source: Any) -> None:
    text = f"<annotations>{image('a.png', BOX, BOX.replace('rod', 'disc'))}</annotations>"
    assert read(source, text).coco["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "rod"}]


# ---- images and subsets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "name", "subset", "place"),
    [
        ("", "a.png", "", "images/a.png"),
        ("", "day 1/a.png", "", "images/day 1/a.png"),
        ("", "a.png", "Train", "images/Train/a.png"),  # the export of a project
        ("", "a.png", "Train", "images/a.png"),
        ("", "frame_000003", "", "images/frame_000003.PNG"),  # a frame of a video
        ("pictures", "day/a.png", "", "pictures/day/a.png"),
        (".", "a.png", "", "a.png"),
    ],
)
def test_image_is_in_the_folder_or_in_that_of_its_subset(
    source: Any, images: str, name: str, subset: str, place: str
) -> None:
    source.write(place, source.png())
    source.write("annotations.xml", export(image(name, BOX, subset=subset)))
    files = {"train": SplitFiles("annotations.xml", images)}
    assert names(read_splits("cvat", str(source.root), files)[0]["train"]) == [place]


def write_project(source: Any, *subsets: str) -> None:
    """An image in each subset, whose box is as wide as its number."""
    images = []
    for number, subset in enumerate(subsets, start=1):
        source.write(f"images/{subset}/{number}.png", source.png(number))
        box = f'<box label="rod" xtl="0" ytl="2" xbr="{number}" ybr="6"/>'
        images.append(image(f"{number}.png", box, subset=subset, number=number))
    listed = "<subsets>" + "\n".join(subsets) + "</subsets>"
    source.write("annotations.xml", export(*images, kind="project", more=listed))


def test_file_with_subsets_is_that_of_every_split(source: Any) -> None:
    write_project(source, "Validation", "Train", "Test")
    splits, notes = read_splits("cvat", str(source.root), dict.fromkeys(("train", "val", "test"), FILES["train"]))
    assert {name: names(split) for name, split in splits.items()} == {
        "train": ["images/Train/2.png"],
        "val": ["images/Validation/1.png"],
        "test": ["images/Test/3.png"],
    }
    assert [boxes(split)[0] for split in splits.values()] == [[0, 2, 2, 4], [0, 2, 1, 4], [0, 2, 3, 4]]
    assert notes == []


def test_default_subset_is_train_and_one_of_another_name_is_counted(source: Any) -> None:
    write_project(source, "default", "val", "extra")
    splits, notes = read_splits("cvat", str(source.root), dict.fromkeys(("train", "val"), FILES["train"]))
    assert {name: names(split) for name, split in splits.items()} == {
        "train": ["images/default/1.png"],
        "val": ["images/val/2.png"],
    }
    file = f"{source.root}/annotations.xml"
    assert notes == [
        f"train: {file}: the 1 images of subset default are read as train",
        f"train: {file}: the 1 images of subset extra are in no split, as its name has none of train, val and test",
    ]
    with pytest.raises(
        ValueError, match=r"data\.test\.annotations: .* has no subset for test, but default, val, extra"
    ):
        read_splits("cvat", str(source.root), {"test": FILES["train"]})


def test_file_whose_subsets_name_no_split_is_read_as_a_whole(source: Any) -> None:
    write_project(source, "one", "two")
    splits, notes = read_splits("cvat", str(source.root), {"val": FILES["train"]})
    assert names(splits["val"]) == ["images/one/1.png", "images/two/2.png"]
    assert notes == []


# ---- what is no CVAT for images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<annotations>", "cannot be read as XML of CVAT"),
        ("", "cannot be read as XML of CVAT"),
        ("<annotation><filename>a.png</filename></annotation>", "begins with <annotation>; expected <annotations>"),
        ("<annotations></annotations>", "has no <image>; expected an export as 'CVAT for images 1.1'"),
        ('<annotations><track id="0" label="rod"><box/></track></annotations>', "exported as 'CVAT for video 1.1'"),
        (export(image("../secret.png")), r"annotations\.xml: image 0 names '\.\./secret\.png'"),
        (export(image("C:/me/a.png")), r"annotations\.xml: image 0 names 'C:/me/a\.png'"),
        (export(image("a.png", subset="../..")), r"which is not a relative path below"),
        (export('<image id="7"/>'), "<image id='7'> has no name; expected a path"),
        ('<!DOCTYPE x [<!ENTITY e "boom">]><annotations>&e;</annotations>', "cannot be read as XML of CVAT .*Entit"),
        ('<?xml version="1.0" encoding="klingon"?><annotations/>', "cannot be read as XML of CVAT"),
    ],
)
def test_file_of_something_else_or_hostile_is_one_sentence(source: Any, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read(source, text)
    assert is_sentence(raised.value)


def test_missing_file_is_named(source: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.train\.annotations: there is no file .*gone\.xml; check data\.root"):
        read(source, export(image()), {"train": SplitFiles("gone.xml", "")})


def peak_of_parsing(num_images: int) -> int:
    """Bytes at most in use; each image has 20 kB of points."""
    polygon = f'<polygon label="rod" points="{";".join(["1.00,2.00"] * 2000)}"/>'
    text = io.BytesIO(export(*(image(f"{n}.png", polygon) for n in range(num_images))).encode())
    assert len(text.getvalue()) > 20_000 * num_images
    tracemalloc.start()
    content = _parse(text, file="annotations.xml")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(content.images) == num_images
    return peak


def test_memory_does_not_grow_with_the_size_of_a_file() -> None:
    assert peak_of_parsing(80) < peak_of_parsing(20) + 200_000  # 1.2 MB more of points


def test_root_may_be_a_url_and_the_manifest_follows_file_and_images(source: Any) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/cvat/day/annotations.xml", export(image("a.png", BOX)).encode())
    store.pipe("/cvat/day/images/a.png", source.png())
    files = {"train": SplitFiles("day/annotations.xml", "")}
    split = read_splits("cvat", "memory://cvat", files)[0]["train"]
    store.rm("/cvat", recursive=True)
    assert boxes(split) == [[1, 2, 3, 4]]
    found, folders = read_from(Root("memory://cvat"), "cvat", files)
    assert [[each.path for each in group] for group in (found, folders)] == [["day/annotations.xml"], ["day/images"]]


# ---- auto ------------------------------------------------------------------------------------------------------------


def found(source: Any) -> dict[str, SplitFiles]:
    resolved = look(Root(str(source.root)))
    assert resolved.format == "cvat"
    return resolved.files


def test_auto_finds_the_subsets_of_a_project(source: Any) -> None:
    write_project(source, "Validation", "Train")
    assert found(source) == dict.fromkeys(("train", "val"), SplitFiles("annotations.xml", ""))


def test_auto_finds_a_file_for_each_split(source: Any) -> None:
    for folder in ("train", "val"):
        source.write(f"{folder}/annotations.xml", export(image("a.png", BOX)))
        source.write(f"{folder}/images/a.png", source.png())
    assert found(source) == {name: SplitFiles(f"{name}/annotations.xml", "") for name in ("train", "val")}


def test_auto_finds_several_tasks_and_images_in_another_folder(source: Any) -> None:
    source.write("pictures/a b.png", source.png())
    for name in ("one", "two"):
        source.write(f"{name}.xml", export(image("a b.png", BOX)))
    assert found(source) == {"train": SplitFiles("one.xml", "pictures", ("two.xml",))}
