"""Laws of the cache of pictures: the same answers, only new and changed ones are opened, damage costs time alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats import pictures, read_splits
from pipeline.formats.picture_cache import PictureCache
from pipeline.formats.pictures import inspect_pictures
from pipeline.formats.records import RawImage
from pipeline.formats.root import Root

NAMES = ("a.png", "b.png", "broken.png", "gone.png", "deep.tif")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are opened."""
    names: list[str] = []
    original = pictures._inspect
    monkeypatch.setattr(pictures, "_inspect", lambda root, image: (names.append(image.path), original(root, image))[1])
    return names


def age(folder: Path) -> None:
    """Make files older than the time resolution of a file system."""
    for path in folder.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))


def write(source: Any) -> None:
    for number, name in enumerate(NAMES[:2]):
        source.write(name, source.png(number))
    source.write("broken.png", source.png()[:30])
    source.write("deep.tif", b"II*\0")
    age(source.root)


def inspect(source: Any, cache: Path | None) -> list[Any]:
    images = [RawImage(number, name, None, "list") for number, name in enumerate(NAMES)]
    known = None if cache is None else PictureCache(cache)
    return inspect_pictures(Root(str(source.root)), images, split="train", cache=known)


def test_second_run_opens_nothing_and_says_the_same(source: Any, opened: list[str], tmp_path: Path) -> None:
    write(source)
    expected = inspect(source, None)
    assert expected[0].thumbnail and expected[2].fault and expected[3].fault == "image is missing"
    opened.clear()
    assert inspect(source, tmp_path / "data/cache") == expected
    assert sorted(opened) == sorted(NAMES)
    opened.clear()
    assert inspect(source, tmp_path / "data/cache") == expected
    assert opened == ["gone.png"]


def test_changed_and_new_pictures_are_opened(source: Any, opened: list[str], tmp_path: Path) -> None:
    write(source)
    inspect(source, tmp_path / "cache")
    source.write("a.png", source.png(99))
    source.write("gone.png", source.png(7))
    shutil.copyfile(source.root / "b.png", source.root / "other")
    (source.root / "other").replace(source.root / "b.png")  # another file of the same content
    age(source.root)
    opened.clear()
    assert inspect(source, tmp_path / "cache") == inspect(source, None)
    assert sorted(opened[:3]) == ["a.png", "b.png", "gone.png"]


def test_file_that_was_just_written_is_opened_again(source: Any, opened: list[str], tmp_path: Path) -> None:
    """Two changes within the time resolution of a file system look the same."""
    source.write("a.png", source.png())
    for _ in range(2):
        inspect(source, tmp_path / "cache")
    assert opened.count("a.png") == 2


@pytest.mark.parametrize("damage", [b"", b"no database", b"SQLite format 3\0" + bytes(200)])
def test_damaged_cache_is_written_anew(damage: bytes, source: Any, opened: list[str], tmp_path: Path) -> None:
    write(source)
    cache = tmp_path / "cache"
    inspect(source, cache)
    cache.write_bytes(damage)
    assert inspect(source, cache) == inspect(source, None)
    opened.clear()
    inspect(source, cache)
    assert opened == ["gone.png"]


def test_other_checks_begin_a_new_cache(
    source: Any, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source)
    inspect(source, tmp_path / "cache")
    monkeypatch.setattr("pipeline.formats.picture_cache.VERSION", 0)
    opened.clear()
    inspect(source, tmp_path / "cache")
    assert sorted(opened) == sorted(NAMES)


def test_prepared_split_does_not_depend_on_the_cache(source: Any, tmp_path: Path) -> None:
    source.read_coco(source.coco([source.image(1)], [source.box(1)]))
    age(source.root / "images")
    results = [
        read_splits("coco", str(source.root), source.COCO_FILES, cache=cache)[0]["train"].coco
        for cache in (None, PictureCache(tmp_path / "cache"), PictureCache(tmp_path / "cache"))
    ]
    assert results[0] == results[1] == results[2]
