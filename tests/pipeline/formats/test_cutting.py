"""Laws of splits that are cut from train: no group on two sides, every class everywhere, and nothing moved."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from PIL import Image

from pipeline.formats import Cut, SplitFiles, read_splits, summarise
from pipeline.formats.cutting import choose_splits
from pipeline.formats.picture_cache import Picture
from pipeline.formats.pictures import inspect_pictures
from pipeline.formats.records import RawImage
from pipeline.formats.root import Root
from tests.textures import encode, texture, write

CUT = Cut({"val": 0.15, "test": 0.1}, seed=1, group=r"(video\d+)/", duplicates=0.9)


class Member(NamedTuple):
    path: str
    group: str
    """what keeps it in one split with others"""


def members() -> list[Member]:
    """120 single images, 20 videos of 6 images, 10 pictures that Roboflow tripled, 15 pictures with a turned copy."""
    singles = [Member(f"single/{n}.png", f"single {n}") for n in range(120)]
    videos = [Member(f"video{n:02}/frame{k}.png", f"video {n}") for n in range(20) for k in range(6)]
    exports = [Member(f"cell{n}_jpg.rf.{n}{k}{'0f' * 15}.jpg", f"cell {n}") for n in range(10) for k in range(3)]
    copies = [Member(f"copies/{n}{end}", f"copies {n}") for n in range(15) for end in (".png", "_again.jpg")]
    return [*singles, *videos, *exports, *copies]


class Mixed(NamedTuple):
    """The images as a reader returns them, as they decode, and with their boxes; by path."""

    root: Path
    images: dict[str, RawImage]
    pictures: dict[str, Picture]
    boxes: dict[str, Counter[str]]

    def choose(self, paths: Sequence[str], cut: Cut) -> dict[str, str | None]:
        """The split of each image."""
        columns = [[column[path] for path in paths] for column in (self.images, self.pictures, self.boxes)]
        return dict(zip(paths, choose_splits(*columns, cut)[0], strict=True))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    root = tmp_path_factory.mktemp("mixed")
    for seed, member in enumerate(members()):
        is_copy = member.path.endswith("_again.jpg")
        picture = texture(seed - is_copy)
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        write(root / member.path, encode(turned, "JPEG", quality=60) if is_copy else encode(picture))
    images = {
        member.path: RawImage(number, member.path, None, "train.json")
        for number, member in enumerate(members(), start=1)
    }
    pictures = dict(zip(images, inspect_pictures(Root(str(root)), list(images.values()), split="train"), strict=True))
    boxes = {
        path: Counter({"ant": 1 + number % 3, "bee": int(number % 5 == 0), "rare": int(number % 70 == 0)})
        for number, path in enumerate(images)
    }
    return Mixed(root, images, pictures, {path: +counts for path, counts in boxes.items()})


@pytest.fixture(scope="module")
def chosen(mixed: Mixed) -> dict[str, str | None]:
    return mixed.choose(list(mixed.images), CUT)


def test_no_group_is_on_two_sides(chosen: dict[str, str | None]) -> None:
    splits: dict[str, set[str | None]] = {}
    for path, group in members():
        splits.setdefault(group, set()).add(chosen[path])
    assert {group: found for group, found in splits.items() if len(found) > 1} == {}


def test_fractions_are_hit(chosen: dict[str, str | None]) -> None:
    counts = Counter(chosen.values())
    assert abs(counts["val"] - 45) <= 6 and abs(counts["test"] - 30) <= 6  # the largest group has 6 images


def test_every_class_is_in_every_split(mixed: Mixed, chosen: dict[str, str | None]) -> None:
    found = {(split, name) for path, split in chosen.items() for name in mixed.boxes[path]}
    assert found == {(split, name) for split in ("train", "val", "test") for name in ("ant", "bee", "rare")}


def test_order_of_images_does_not_matter(mixed: Mixed, chosen: dict[str, str | None]) -> None:
    paths = list(mixed.images)
    Random(3).shuffle(paths)
    assert mixed.choose(paths, CUT) == chosen


def test_seed_chooses(mixed: Mixed, chosen: dict[str, str | None]) -> None:
    other = mixed.choose(list(mixed.images), replace(CUT, seed=2))
    assert Counter(chosen[path] == other[path] for path in chosen)[False] > 30


def test_new_images_move_no_old_one_and_follow_their_group(mixed: Mixed) -> None:
    """Half of the images come later: frames of known videos, copies of known pictures, and others."""
    old = [path for number, path in enumerate(mixed.images) if number % 2 == 0]
    before = mixed.choose(old, CUT)
    known = {path: split for path, split in before.items() if split is not None}
    after = mixed.choose(list(mixed.images), replace(CUT, known=known))
    assert {path: after[path] for path in old} == before
    test_no_group_is_on_two_sides(after)
    test_fractions_are_hit(after)
    assert None not in after.values()


def test_new_names_of_images_keep_their_group_in_its_split(mixed: Mixed, chosen: dict[str, str | None]) -> None:
    """Every export of Roboflow has new hashes; here the old files are gone."""
    known = {path.replace(".rf.", ".rf.abc"): split for path, split in chosen.items() if split is not None}
    after = mixed.choose(list(mixed.images), replace(CUT, known=known))
    assert after == chosen


def test_new_image_that_would_connect_two_splits_is_left_out(mixed: Mixed) -> None:
    """copies/3_again.jpg comes under the name of a video of val, but shows copies/3.png, which is in train."""
    known = {"copies/3.png": "train", "single/0.png": "test", **{f"video07/frame{n}.png": "val" for n in range(6)}}
    renamed = {path: path.replace("copies/3_again.jpg", "video07/again.jpg") for path in mixed.images}
    images = [replace(image, path=renamed[path]) for path, image in mixed.images.items()]
    splits, _ = choose_splits(
        images, list(mixed.pictures.values()), list(mixed.boxes.values()), replace(CUT, known=known)
    )
    found = dict(zip(renamed.values(), splits, strict=True))
    assert [path for path, split in found.items() if split is None] == ["video07/again.jpg"]
    assert {path: found[path] for path in known} == known
    # A line in data/splits.json decides it.
    known["video07/again.jpg"] = "val"
    splits, _ = choose_splits(
        images, list(mixed.pictures.values()), list(mixed.boxes.values()), replace(CUT, known=known)
    )
    assert None not in splits and splits[list(renamed).index("copies/3_again.jpg")] == "val"


def test_image_that_cannot_be_read_stays_where_it_was(mixed: Mixed) -> None:
    pictures = {**mixed.pictures, **{f"single/{n}.png": Picture((0, 0), "", "image is missing") for n in range(2)}}
    found = mixed._replace(pictures=pictures).choose(list(mixed.images), replace(CUT, known={"single/0.png": "val"}))
    assert (found["single/0.png"], found["single/1.png"]) == ("val", "train")


def test_images_of_which_none_can_be_read_are_refused(mixed: Mixed) -> None:
    missing = Picture((0, 0), "", "image is missing")
    sentence = r"none of the 300 images of train can be read, e\.g\. single/0\.png: image is missing; check data\.train"
    with pytest.raises(ValueError, match=sentence):
        mixed._replace(pictures=dict.fromkeys(mixed.images, missing)).choose(list(mixed.images), CUT)


def test_notes_say_what_was_cut_and_which_class_has_too_few_groups(mixed: Mixed) -> None:
    boxes = {**mixed.boxes, "single/1.png": Counter({"once": 4})}
    notes = choose_splits(list(mixed.images.values()), list(mixed.pictures.values()), list(boxes.values()), CUT)[1]
    assert notes == [
        "val (15 %) and test (10 %) are cut from train, whose 300 images form 165 groups (data.split)",
        "data.split.group does not match 180 of the 300 images of train, e.g. single/0.png",
        "fewer than 3 groups of images have once (1), so that not every split has these classes",
    ]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (
            r"\.",
            "data.split cannot cut val and test from train, because its 300 images form only 1 group that must stay",
        ),
        (
            r"patient\d",
            r"data.split.group is patient\d, which matches none of the 300 images of train, e.g. single",
        ),
    ],
)
def test_useless_groups_are_refused_in_one_sentence(mixed: Mixed, pattern: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"data\.split") as caught:
        mixed.choose(list(mixed.images), replace(CUT, group=pattern))
    assert str(caught.value).startswith(sentence)


def test_known_splits_that_leave_one_empty_are_refused(mixed: Mixed) -> None:
    known = dict.fromkeys(mixed.images, "train")
    with pytest.raises(ValueError, match=r"data/splits.json leaves no image for val and test; delete it"):
        mixed.choose(list(mixed.images), replace(CUT, known=known))


def coco_of(mixed: Mixed) -> dict[str, Any]:
    numbers = {"ant": 1, "bee": 2, "rare": 3}
    annotations = [
        {"image_id": mixed.images[path].id, "category_id": numbers[name], "bbox": [1, 1, 9, 9]}
        for path, counts in mixed.boxes.items()
        for name in counts.elements()
    ]
    return {
        "images": [{"id": image.id, "file_name": path} for path, image in mixed.images.items()],
        "annotations": [{"id": number, **box} for number, box in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def test_reading_cuts_and_leaves_no_leak_and_counts_each_record_once(mixed: Mixed) -> None:
    content = coco_of(mixed)
    first = {box["image_id"]: box for box in reversed(content["annotations"])}
    # Of each image: a repeated record, a repeated box, and a box without area.
    broken = [{**box, "id": 10_000 + image, "bbox": [1, 1, 0, 5]} for image, box in first.items()]
    stray = {"id": 20_000, "image_id": 5000, "category_id": 1, "bbox": [1, 1, 5, 5]}
    content["images"] += [*content["images"], {"id": 999, "file_name": "gone.png"}]
    content["annotations"] += [*first.values(), *broken, stray]
    (mixed.root / "train.json").write_text(json.dumps(content))
    splits, notes = read_splits("coco", str(mixed.root), {"train": SplitFiles("train.json", ".")}, cut=CUT)
    assert list(splits) == ["train", "val", "test"]
    assert notes[0].startswith("val (15 %) and test (10 %) are cut from train")
    report = summarise(splits, group=CUT.group, duplicates=CUT.duplicates)
    assert report["leaks"] == []
    assert sum(numbers["images"] for numbers in report["splits"].values()) == 300
    for name, split in splits.items():
        numbers, lost = report["splits"][name], int(name == "train")  # the missing image and the stray box
        assert numbers["images_dropped"] == numbers["images"] + lost
        assert numbers["boxes_dropped"] == 2 * numbers["images"] + lost
        assert split.coco["info"]["split"] == name
        paths = {image["file_name"] for image in split.coco["images"]}
        assert {finding.split for finding in split.dropped} == {name}
        assert {finding.image for finding in split.dropped} - paths == ({"gone.png", "image 5000"} if lost else set())
    ids = [box["id"] for split in splits.values() for box in split.coco["annotations"]]
    assert sorted(ids) == list(range(1, 1 + sum(counts.total() for counts in mixed.boxes.values())))
