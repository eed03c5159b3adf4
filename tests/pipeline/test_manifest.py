"""Laws of the stage manifest: the same data have the same manifest wherever they lie, and other data another."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.manifest import MANIFEST, main

REPOSITORY = Path(__file__).parents[2]
SPLITS = {
    "train": {"annotations": "train.json", "images": "images"},
    "val": {"annotations": "val.json", "images": "images"},
}


def write_params(folder: Path, **data: Any) -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["data"] |= {"format": "coco", "root": "data/raw/mine", "test": None, **SPLITS} | data
    params["evaluate"]["split"] = "val"
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def write_files(root: Path) -> None:
    """Two annotation files and two pictures; a manifest asks for no more of a picture than to be a file."""
    (root / "images/left").mkdir(parents=True)
    (root / "images/a.png").write_bytes(b"first")
    (root / "images/left/b.png").write_bytes(b"second")
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(f'{{"split": "{split}"}}')


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A folder with a data set, in which commands run."""
    folder = tmp_path / "project"
    write_params(folder)
    write_files(folder / "data/raw/mine")
    with chdir(folder):
        yield folder


def manifest_of(folder: Path) -> dict[str, Any]:
    """What the stage writes there."""
    with chdir(folder):
        main([])
        content: dict[str, Any] = json.loads(MANIFEST.read_text())
        return content


def changed_by(folder: Path, change: Any) -> set[str]:
    """The sources whose entries differ after a change."""
    before = manifest_of(folder)["sources"]
    change()
    after = manifest_of(folder)["sources"]
    assert set(before) == set(after)
    return {path for path in before if before[path] != after[path]}


def test_a_copy_in_another_clone_has_the_same_manifest(project: Path, tmp_path: Path) -> None:
    write_params(tmp_path / "clone")
    shutil.copytree(project / "data/raw", tmp_path / "clone/data/raw", copy_function=shutil.copyfile)
    os.utime(tmp_path / "clone/data/raw/mine/images/a.png", (1, 1))
    manifest_of(project)
    manifest_of(tmp_path / "clone")
    assert (tmp_path / "clone" / MANIFEST).read_bytes() == (project / MANIFEST).read_bytes()


def test_every_source_has_an_entry(project: Path) -> None:
    content = manifest_of(project)
    text = b'{"split": "train"}'
    assert content["root"] == "data/raw/mine"
    assert sorted(content["sources"]) == ["images/", "train.json", "val.json"]
    assert content["sources"]["train.json"] == {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    assert {key: content["sources"]["images/"][key] for key in ("files", "bytes")} == {"files": 2, "bytes": 11}


def test_changed_bytes_are_noticed_where_size_and_time_are_not_changed(project: Path) -> None:
    picture = Path("data/raw/mine/images/left/b.png")

    def change() -> None:
        status = picture.stat()
        picture.write_bytes(b"SECOND")
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert changed_by(project, change) == {"images/"}


def lengthen(picture: Path) -> None:
    picture.write_bytes(b"second, and more")
    os.utime(picture, (1, 1))


def change_later(picture: Path) -> None:
    picture.write_bytes(b"SECOND")
    os.utime(picture, (2, 2))


def put_another_in_its_place(picture: Path) -> None:
    Path("other.png").write_bytes(b"SECOND")
    os.utime("other.png", (1, 1))
    Path("other.png").replace(picture)


@pytest.mark.parametrize("change", [lengthen, change_later, put_another_in_its_place])
def test_old_file_is_read_again_where_its_size_its_time_or_its_inode_differs(
    change: Callable[[Path], None], project: Path
) -> None:
    picture = Path("data/raw/mine/images/left/b.png")
    os.utime(picture, (1, 1))
    assert changed_by(project, lambda: change(picture)) == {"images/"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("images/c.png", {"images/"}),
        ("images/left/c.png", {"images/"}),
        ("train.json", {"train.json"}),
        ("notes.txt", set()),
        ("images/.DS_Store", set()),
    ],
)
def test_only_a_file_of_the_data_set_changes_its_manifest(project: Path, name: str, changed: set[str]) -> None:
    assert changed_by(project, lambda: Path("data/raw/mine", name).write_text("other")) == changed


def test_renamed_picture_is_a_change(project: Path) -> None:
    picture = Path("data/raw/mine/images/a.png")
    assert changed_by(project, lambda: picture.rename(picture.with_name("z.png"))) == {"images/"}


def test_file_is_read_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in Path("data/raw").rglob("*.*"):
        os.utime(path, (1, 1))
    first = manifest_of(project)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert manifest_of(project) == first


def test_list_of_digests_that_cannot_be_read_is_made_again(project: Path) -> None:
    first = manifest_of(project)
    Path("data/digests.json").write_text('{"a": 1')
    assert manifest_of(project) == first


def test_voc_pages_are_followed(project: Path) -> None:
    split = {"annotations": "ImageSets/Main/train.txt", "images": "images"}
    write_params(project, format="voc", train=split, val=split)
    for path in ("Annotations/a.xml", "ImageSets/Main/train.txt"):
        Path("data/raw/mine", path).parent.mkdir(parents=True)
        Path("data/raw/mine", path).write_text("a")
    page = Path("data/raw/mine/Annotations/a.xml")
    assert changed_by(project, lambda: page.write_text("b")) == {"Annotations/"}


def test_root_itself_may_be_the_folder_of_pictures(project: Path) -> None:
    write_params(project, train=SPLITS["train"] | {"images": "."}, val=SPLITS["val"] | {"images": "./images/"})
    sources = manifest_of(project)["sources"]
    assert {path: entry["files"] for path, entry in sources.items() if "files" in entry} == {"./": 4, "./images/": 2}


def test_links_that_lead_in_a_circle_or_nowhere_end(project: Path) -> None:
    Path("data/raw/mine/images/left/up").symlink_to("..")
    Path("data/raw/mine/images/gone.png").symlink_to("nowhere.png")
    # a.png, left/b.png and left/up/a.png, as the circle has been gone round once
    assert manifest_of(project)["sources"]["images/"]["files"] == 3


def test_shapes_have_no_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(project, format="shapes", root="nowhere")
    assert manifest_of(project) == {"root": None, "sources": {}}
    assert "there are no files to check" in capsys.readouterr().out


def test_it_says_what_has_changed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out == "data/raw/mine: 4 files, changed: images/, train.json, val.json\n"
    main([])
    assert capsys.readouterr().out == "data/raw/mine: 4 files, none has changed\n"
    Path("data/raw/mine/train.json").write_text("other")
    main([])
    assert capsys.readouterr().out == "data/raw/mine: 4 files, changed: train.json\n"


def test_manifest_stands_where_the_data_are_not(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that only trains needs no raw data."""
    first = manifest_of(project)
    shutil.rmtree("data/raw/mine")
    assert manifest_of(project) == first
    assert "data/raw/mine is not on this machine; data/manifest.json was not changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data", [{"root": "data/raw/other"}, {"train": {"annotations": "new.json", "images": "images"}}]
)
def test_data_that_are_asked_for_anew_must_be_there(project: Path, data: dict[str, Any]) -> None:
    main([])
    shutil.rmtree("data/raw/mine")
    write_params(project, **data)
    with pytest.raises(ValueError, match=r"^data\.root: there is no folder data/raw/\w+ here; .*`dvc pull data/raw/"):
        main([])


def test_table_of_columns_is_a_source(project: Path) -> None:
    table = Path("data/raw/mine/patients.csv")
    table.write_text("file,patient\na.png,1\n")
    write_params(project, columns={"names": ["patient"], "table": "patients.csv", "image": None})
    assert changed_by(project, lambda: table.write_text("file,patient\na.png,2\n")) == {"patients.csv"}
    shutil.rmtree("data/raw/mine")
    main([])  # it stands without the data
    write_params(project, columns={"names": ["patient"], "table": "other.csv", "image": None})
    with pytest.raises(ValueError, match=r"^data\.root: there is no folder data/raw/mine here"):
        main([])


def test_missing_annotation_file_names_its_parameter(project: Path) -> None:
    Path("data/raw/mine/val.json").unlink()
    with pytest.raises(ValueError, match=r"^data\.val\.annotations: there is no file data/raw/mine/val\.json; check"):
        main([])


@pytest.fixture
def store(project: Path) -> Iterator[MemoryFileSystem]:
    """An object store with the data set at memory://mine, of which the project reads."""
    store = fsspec.filesystem("memory")
    for name in ("train.json", "val.json", "images/a.png", "images/left/b.png"):
        store.pipe(f"/mine/{name}", Path("data/raw/mine", name).read_bytes())
    write_params(project, root="memory://mine")
    yield store
    store.rm("/mine", recursive=True)


def test_bucket_is_followed_by_its_listing(project: Path, store: MemoryFileSystem) -> None:
    assert changed_by(project, lambda: None) == set()
    assert changed_by(project, lambda: store.pipe("/mine/images/left/b.png", b"SECOND")) == {"images/"}
    assert changed_by(project, lambda: store.pipe("/mine/images/c.png", b"third")) == {"images/"}
    assert changed_by(project, lambda: store.pipe("/mine/val.json", b"{}")) == {"val.json"}
    assert changed_by(project, lambda: store.pipe("/mine/notes.txt", b"other")) == set()


@pytest.mark.parametrize("folder", ["/mine/images", "/mine/images/left"])
def test_folder_that_cannot_be_listed_is_not_taken_for_empty(
    project: Path, store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    before = manifest_of(project)
    whole = MemoryFileSystem.ls

    def ls(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        if path == folder:
            raise OSError("slow down")
        return whole(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    with pytest.raises(ValueError, match=r"^memory://mine cannot be used \(slow down\)"):
        main([])
    assert json.loads(MANIFEST.read_text()) == before


@pytest.fixture
def web(project: Path) -> Iterator[str]:
    """The address of a web server with the data set, of which the project reads."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=project / "data/raw")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        write_params(project, root=f"http://127.0.0.1:{server.server_port}/mine")
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_web_server_is_asked_for_annotation_files_only(
    project: Path, web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def change() -> None:
        Path("data/raw/mine/train.json").write_text("other")

    assert changed_by(project, change) == {"train.json"}
    assert sorted(manifest_of(project)["sources"]) == ["train.json", "val.json"]
    assert "http cannot list folders, so only annotation files are checked" in capsys.readouterr().out
    assert changed_by(project, lambda: os.utime("data/raw/mine/val.json", (1, 1))) == {"val.json"}


def test_web_server_without_the_file_says_so(project: Path, web: str) -> None:
    Path("data/raw/mine/val.json").unlink()
    with pytest.raises(ValueError, match=r"^data\.val\.annotations: there is no file http://.*/val\.json \(404, "):
        main([])
