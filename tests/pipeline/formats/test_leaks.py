"""Laws of leaks between splits that a data set brings: each kind is found, once, with the images and in few lines."""

from __future__ import annotations

from PIL import Image

from pipeline.formats import SplitFiles, format_report, read_splits, summarise
from pipeline.formats.leaks import describe_leaks, find_leaks
from pipeline.formats.records import Split
from tests.textures import encode, texture

HASHES = ("0f" * 16, "1e" * 16, "2d" * 16)


def read(source, pictures: dict[str, dict[str, bytes]]) -> dict[str, Split]:  # type: ignore[no-untyped-def]
    """The splits of a data set with these files, which have no boxes."""
    for split, files in pictures.items():
        for name, content in files.items():
            source.write(f"images/{name}", content)
        images = [source.image(number, name) for number, name in enumerate(files, start=1)]
        source.write(f"{split}.json", source.coco(images, []))
    files = {split: SplitFiles(f"{split}.json", "images") for split in pictures}
    return read_splits("coco", str(source.root), files)[0]


def test_near_identical_images_of_two_splits_are_a_leak_with_the_pair(source) -> None:  # type: ignore[no-untyped-def]
    scene = texture(1)
    turned = encode(scene.transpose(Image.Transpose.ROTATE_180), "JPEG", quality=60)
    splits = read(source, {
        "train": {"a.png": encode(scene), "b.png": encode(texture(2))},
        "val": {"c.jpg": turned, "d.png": encode(texture(3))},
    })  # fmt: skip
    expected = {
        "kind": "near-identical",
        "images": {"train": ["images/a.png"], "val": ["images/c.jpg"]},
        "pairs": [{"train": "images/a.png", "val": "images/c.jpg"}],
    }
    assert find_leaks(splits, duplicates=0.9) == [expected]
    assert find_leaks(splits) == []
    assert describe_leaks([expected, expected]) == [
        "in several splits: near-identical images (2), e.g. images/a.png of train, images/c.jpg of val"
    ]


def test_near_identical_images_of_one_split_are_no_leak_and_identical_files_are_one_leak(source) -> None:  # type: ignore[no-untyped-def]
    scene = encode(texture(1))
    splits = read(source, {
        "train": {"a.png": scene, "again.jpg": encode(texture(1), "JPEG", quality=70), "b.png": encode(texture(2))},
        "val": {"c.png": encode(texture(2)), "d.png": encode(texture(3))},
    })  # fmt: skip
    (leak,) = find_leaks(splits, duplicates=0.9)
    assert leak == {
        "kind": "identical",
        "images": {"train": ["images/b.png"], "val": ["images/c.png"]},
        "sha256": splits["val"].coco["images"][0]["sha256"],
    }


def test_copy_of_a_file_in_two_splits_is_near_identical_to_both(source) -> None:  # type: ignore[no-untyped-def]
    scene = encode(texture(1))
    copy = encode(texture(1), "JPEG", quality=70)
    splits = read(source, {"train": {"a.png": scene}, "val": {"b.png": scene, "c.jpg": copy}})
    identical, near = find_leaks(splits, duplicates=0.9)
    assert identical["kind"] == "identical"
    assert near["images"] == {"train": ["images/a.png"], "val": ["images/b.png", "images/c.jpg"]}
    assert near["pairs"] == [{"train": "images/a.png", "val": "images/c.jpg"}]


def test_groups_of_two_splits_are_leaks_by_name(source) -> None:  # type: ignore[no-untyped-def]
    names = [f"cell_jpg.rf.{digest}.jpg" for digest in HASHES]
    pictures = [encode(texture(seed)) for seed in range(6)]
    splits = read(source, {
        "train": {names[0]: pictures[0], names[1]: pictures[1], "p1/a.png": pictures[2]},
        "val": {names[2]: pictures[3]},
        "test": {"p1/b.png": pictures[4], "p2/c.png": pictures[5]},
    })  # fmt: skip
    leaks = find_leaks(splits, group=r"p\d", duplicates=0.9)
    assert leaks == [
        {
            "kind": "Roboflow name",
            "images": {"train": [f"images/{names[0]}", f"images/{names[1]}"], "val": [f"images/{names[2]}"]},
            "name": "cell_jpg",
        },
        {"kind": "group", "images": {"train": ["images/p1/a.png"], "test": ["images/p1/b.png"]}, "name": "p1"},
    ]
    printed = format_report(summarise(splits, group=r"p\d"), shown=2, path="report.json")
    assert printed.count("in several splits: ") == 2
    assert (
        "images of one group of data.split.group (1), e.g. images/p1/a.png of train, images/p1/b.png of test" in printed
    )
