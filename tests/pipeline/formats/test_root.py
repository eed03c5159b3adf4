"""No path in a data set leaves its root, and the root may be a URL."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.formats import SplitFiles, read_splits
from pipeline.formats.root import Root, check_stays_inside
from pipeline.storage import stores
from tests.flaky import SLOW_DOWN


@pytest.mark.parametrize(
    "path",
    [
        "../a",
        "a/../../b",
        "/etc/passwd",
        "\\\\host\\a",
        "C:\\a",
        "c:a",
        "..\\a",
        "%2e%2e/a",
        "http://x/a",
        "a::s3",
        "a\0",
        "\ud800.png",
    ],
)
def test_path_that_leaves_the_root_names_the_file(path: str) -> None:
    with pytest.raises(ValueError, match=r"train\.json names"):
        check_stays_inside(path, named_by="train.json")


@pytest.mark.parametrize("path", ["a.png", "x/y/a.b..png", "..a", "50% off.png", "a b.png", "x./a"])
def test_ordinary_path_is_accepted(path: str) -> None:
    check_stays_inside(path, named_by="train.json")


@pytest.mark.parametrize("name", ["../a.png", "/a.png"])
def test_coco_file_name_outside_the_root_is_an_error(source: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"train\.json: image 1 names"):
        source.read_coco(source.coco([source.image(1, name)], []))


def test_link_out_of_the_root_is_an_error(source: Any) -> None:
    source.write("images/b.png", b"")
    (source.root / "images/b.png").rename(source.root.parent / "secret.png")
    (source.root / "images/b.png").symlink_to(source.root.parent / "secret.png")
    with pytest.raises(ValueError, match=r"train\.json names 'images/b\.png', a link to .*secret\.png, outside"):
        source.read_coco(source.coco([source.image(1, "b.png")], []))


def test_link_to_itself_is_a_missing_image(source: Any) -> None:
    source.write("images/b.png", b"")
    (source.root / "images/b.png").unlink()
    (source.root / "images/b.png").symlink_to(source.root / "images/b.png")
    split = source.read_coco(source.coco([source.image(1), source.image(2, "b.png")], []))
    assert [image["file_name"] for image in split.coco["images"]] == ["images/a.png"]


def test_root_itself_may_be_a_link(source: Any) -> None:
    source.read_coco(source.coco([source.image(1)], []))
    link = source.root.parent / "link"
    link.symlink_to(source.root)
    splits, _ = read_splits("coco", str(link), source.COCO_FILES)
    assert len(splits["train"].coco["images"]) == 1


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_root_may_be_a_url(source: Any, name: str) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/cells/images/a.png", source.png())
    store.pipe("/cells/train.json", source.coco([source.image(1)], [source.box(1)]).encode())
    store.pipe("/cells/Annotations/a.xml", source.page(("cell", "1 2 4 6")).encode())
    store.pipe("/cells/list.txt", b"a")
    files = {"train": SplitFiles({"coco": "train.json", "voc": "list.txt"}[name], "images")}
    splits, _ = read_splits(name, "memory://cells", files)
    store.rm("/cells", recursive=True)
    assert splits["train"].coco["info"]["root"] == "memory://cells"
    assert [kept["bbox"] for kept in splits["train"].coco["annotations"]] == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("question", ["read", "has_file", "info"])
def test_question_that_a_store_refuses_for_the_moment_is_repeated(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    fsspec.filesystem("memory").pipe_file("/refusing/a", b"content")
    name = {"read": "cat_file", "has_file": "info", "info": "info"}[question]
    answer, refusals, pauses = getattr(MemoryFileSystem, name), [SLOW_DOWN, SLOW_DOWN], []

    def refuse_twice(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise OSError(refusals.pop())
        return answer(*arguments, **options)

    root = Root("memory://refusing")
    monkeypatch.setattr(MemoryFileSystem, name, refuse_twice)
    monkeypatch.setattr(stores.time, "sleep", pauses.append)
    assert getattr(root, question)("a", named_by="a test")
    assert len(pauses) == 2
