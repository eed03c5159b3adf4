"""Laws of every format at once: the same data set in each is prepared alike, and no file ends without a sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats import READERS, Split, read_splits
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from tests.perfect_detections import perfect_aps
from tests.pipeline.formats.writers import WRITERS, Picture, Written, png

CLASSES = ("disc", "rod", "tube")
# What a format's digits can move an edge, in px: six decimals of a side of at most 64 px; two decimals.
EXACT = 1e-9
PRECISION = {"yolo": 64e-6, "cvat": 0.0101, "kitti": 0.0101}


@contextmanager
def stored(written: Written) -> Iterator[str]:
    """The URL of a store with these files."""
    store = fsspec.filesystem("memory")
    store.pipe({f"/law/{path}": content for path, content in written.files.items()})
    yield "memory://law"
    store.rm("/law", recursive=True)


def read(name: str, written: Written, **options: Any) -> Split:
    with stored(written) as url:
        return read_splits(WRITERS[name][0], url, written.splits, **options)[0]["train"]


@st.composite
def drawn_pictures(draw: st.DrawFn) -> list[Picture]:
    """Up to 3 images with up to 4 boxes each, of sides from 2 px up; the first has a box."""
    pictures = []
    for number in range(draw(st.integers(1, 3))):
        width, height = draw(st.tuples(st.integers(8, 64), st.integers(8, 64)))
        boxes = draw(st.lists(drawn_box(width, height), min_size=number == 0, max_size=4, unique_by=_to_two_decimals))
        pictures.append(Picture(f"{number}.png", (width, height), boxes))
    return pictures


@st.composite
def drawn_box(draw: st.DrawFn, width: int, height: int) -> tuple[str, tuple[float, float, float, float]]:
    x1, y1 = draw(st.tuples(st.floats(0, width - 2), st.floats(0, height - 2)))
    x2, y2 = draw(st.tuples(st.floats(x1 + 2, width), st.floats(y1 + 2, height)))
    return draw(st.sampled_from(CLASSES)), (x1, y1, x2, y2)


def _to_two_decimals(box: tuple[str, Sequence[float]]) -> tuple[str, ...]:
    return (box[0], *(f"{side:.2f}" for side in box[1]))


def found_in(split: Split) -> dict[str, Any]:
    """By the name of each image: its size, and class and box of its objects, in their order."""
    names = {category["id"]: category["name"] for category in split.coco["categories"]}
    return {
        image["file_name"].rpartition("/")[2]: (
            (image["width"], image["height"]),
            [
                (names[box["category_id"]], box["bbox"])
                for box in split.coco["annotations"]
                if box["image_id"] == image["id"]
            ],
        )
        for image in split.coco["images"]
    }


def test_every_format_has_a_writer() -> None:
    assert {name for name, _ in WRITERS.values()} == set(READERS)


@settings(max_examples=25)
@given(drawn_pictures())
def test_one_data_set_is_the_same_in_every_format(pictures: list[Picture]) -> None:
    for name, (_, write) in WRITERS.items():
        split = read(name, write(pictures, CLASSES))
        tolerance = PRECISION.get(name, EXACT)
        expected = {
            picture.name: (
                picture.size,
                [
                    (label, pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=tolerance))
                    for label, (x1, y1, x2, y2) in picture.boxes
                ],
            )
            for picture in pictures
        }
        assert found_in(split) == expected, name
        assert not split.dropped and not split.resized and not split.notes, name


@pytest.mark.parametrize("name", WRITERS)
def test_auto_recognises_every_format(name: str) -> None:
    pictures = [Picture("a.png", (20, 10), [("rod", (1.5, 2.0, 4.0, 6.0))]), Picture("b.png", (16, 12), [])]
    written = WRITERS[name][1](pictures, CLASSES)
    with stored(written) as url:
        resolved = look(Root(url))
    assert resolved.format == WRITERS[name][0]
    assert found_in(read(name, written._replace(splits=resolved.files))) == found_in(read(name, written))


@settings(max_examples=10)
@given(drawn_pictures(), st.sampled_from(list(WRITERS)))
def test_perfect_detections_of_a_prepared_set_have_ap_1(pictures: list[Picture], name: str) -> None:
    split = read(name, WRITERS[name][1](pictures, CLASSES))
    assert perfect_aps(split.coco) == pytest.approx([1.0, 1.0])


# ---- no picture from outside the root --------------------------------------------------------------------------------

SECRET = Picture("secret.png", (20, 10), [])
# Where a format names an image, or a folder of images.
NAMED = {
    "coco": ("train.json", "a.png"),
    "voc": ("Annotations/a.xml", "a.png"),
    "voc, a folder": ("train/a.xml", "a.png"),
    "yolo": ("data.yaml", "images/train"),
    "csv": ("train.csv", "a.png"),
    "labelme": ("train/a.json", "a.png"),
    "cvat": ("annotations.xml", "a.png"),
}


def digests_of(name: str, root: Path, written: Written) -> set[str]:
    """SHA-256 of every picture that the format reads; none if the outcome is a sentence."""
    try:
        split = read_splits(WRITERS[name][0], str(root), written.splits)[0]["train"]
    except ValueError:
        return set()
    return {image["sha256"] for image in split.coco["images"]}


def write_all(root: Path, written: Written) -> None:
    for path, content in written.files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@pytest.mark.parametrize("name", NAMED)
def test_no_name_in_a_file_reads_a_picture_outside_the_root(name: str, tmp_path: Path) -> None:
    written = WRITERS[name][1]([Picture("a.png", (20, 10), [("rod", (1.5, 2.0, 4.0, 6.0))])], CLASSES)
    write_all(tmp_path / "root", written)
    (tmp_path / "secret.png").write_bytes(png(SECRET))
    secret = hashlib.sha256(png(SECRET)).hexdigest()
    path, old = NAMED[name]
    for place in ("..", "../..", "../../..", "%2e%2e", "..\\\\..", str(tmp_path), f"file://{tmp_path}"):
        new = place if old.endswith("train") else f"{place}/secret.png"
        (tmp_path / "root" / path).write_bytes(written.files[path].replace(old.encode(), new.encode()))
        assert secret not in digests_of(name, tmp_path / "root", written), new


@pytest.mark.parametrize("name", WRITERS)
def test_no_link_reads_a_picture_outside_the_root(name: str, tmp_path: Path) -> None:
    written = WRITERS[name][1]([Picture("a.png", (20, 10), [("rod", (1.5, 2.0, 4.0, 6.0))])], CLASSES)
    write_all(tmp_path / "root", written)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(SECRET))
    link = next(tmp_path / "root" / path for path in written.files if path.endswith("a.png"))
    assert digests_of(name, tmp_path / "root", written) == {hashlib.sha256(link.read_bytes()).hexdigest()}
    link.unlink()
    link.symlink_to(secret)
    assert digests_of(name, tmp_path / "root", written) == set()
