"""Laws of `data.format: auto` and of `prepare --look`: what a folder is taken for, and when nothing is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.formats import SplitFiles
from pipeline.formats.looking import Resolved, look, resolve
from pipeline.formats.root import Root
from pipeline.params import load_params
from pipeline.prepare import main


def seen(source: Any) -> Resolved:
    return look(Root(str(source.root)))


def write_coco(source: Any, **names: str) -> None:
    """COCO files by split, each with an image of its own."""
    for number, (folder, file) in enumerate(names.items()):
        source.write(f"{folder}/{number}.png", source.png())
        source.write(file, source.coco([source.image(1, f"{number}.png")], [source.box(1)]))


def test_coco_as_its_authors_lay_it_out(source: Any) -> None:
    write_coco(source, train2017="annotations/instances_train2017.json", val2017="annotations/instances_val2017.json")
    source.write("annotations/captions_train2017.json", '{"info": {}, "images": [{"file_name": "0.png"}]}')
    assert seen(source).format == "coco"
    assert seen(source).files == {
        "train": SplitFiles("annotations/instances_train2017.json", "train2017"),
        "val": SplitFiles("annotations/instances_val2017.json", "val2017"),
    }


def test_coco_of_roboflow(source: Any) -> None:
    folders = {"train": "train", "valid": "val", "test": "test"}
    for folder in folders:
        source.write(f"{folder}/0.png", source.png())  # one name in every folder: that of the own split counts
        source.write(f"{folder}/_annotations.coco.json", source.coco([source.image(1, "0.png")], []))
    assert seen(source).files == {
        split: SplitFiles(f"{folder}/_annotations.coco.json", folder) for folder, split in folders.items()
    }


def test_several_files_of_one_split_are_read_together(source: Any) -> None:
    source.write("images/0.png", source.png())
    for name in ("cells", "viruses"):
        source.write(f"{name}.json", source.coco([source.image(1, "0.png")], []))
    assert seen(source).files == {"train": SplitFiles("cells.json", "images", ("viruses.json",))}


def test_voc_as_its_authors_lay_it_out(source: Any) -> None:
    source.write_voc({"a": source.page()}, "trainval")
    source.write_voc({"b": source.page()}, "test")
    for stem in "ab":
        source.write(f"JPEGImages/{stem}.png", source.png())
    assert seen(source).format == "voc"
    assert seen(source).files == {
        "train": SplitFiles("ImageSets/Main/trainval.txt", "JPEGImages"),
        "test": SplitFiles("ImageSets/Main/test.txt", "JPEGImages"),
    }


def test_yolo_of_roboflow(source: Any) -> None:
    names = {"train": "train", "valid": "val", "test": "test"}
    keys = "".join(f"{split}: ../{folder}/images\n" for folder, split in names.items())
    source.write("data.yaml", f"{keys}nc: 1\nnames: [cell]\nroboflow: {{license: MIT}}\n")
    for folder in names:
        source.write(f"{folder}/images/a.png", source.png())
        source.write(f"{folder}/labels/a.txt", "0 .5 .5 .1 .1\n")
    assert seen(source).format == "yolo"
    assert seen(source).files == {split: SplitFiles("data.yaml", "") for split in names.values()}


def test_yolo_with_a_test_that_is_not_there_has_none(source: Any) -> None:
    """Roboflow names ../test/images in data.yaml also where no picture was put into test."""
    source.write("data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cell]\n")
    for folder in ("train", "valid"):
        source.write(f"{folder}/images/a.png", source.png())
        source.write(f"{folder}/labels/a.txt", "0 .5 .5 .1 .1\n")
    assert list(seen(source).files) == ["train", "val"]


def test_two_data_sets_in_a_folder_are_candidates(source: Any) -> None:
    for year in ("VOC2007", "VOC2012"):
        source.write(f"{year}/ImageSets/Main/train.txt", "a\n")
        source.write(f"{year}/Annotations/a.xml", source.page())
        source.write(f"{year}/JPEGImages/a.png", source.png())
    with pytest.raises(ValueError, match=r"can be read in 2 ways; set data\.root to one of them") as error:
        seen(source)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        f"voc: {year}/ImageSets/Main/train.txt and {year}/Annotations" for year in ("VOC2007", "VOC2012")
    ]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"a.png": b""},
        {"package.json": b'{"name": "x"}', "config.yaml": b"a: [1", "b.json": b"\xff\xfe{"},
        {"train.json": b'{"images": [], "annotations": [], "categories": []}'},
        {"train.json": b'{"images": [{"file_name": "not there.jpg"}]}'},
        {"train.json": b'{"images": [{"file_name": "../../a.png"}]}', "a.png": b""},
        {"data.yaml": b"names: [a]"},
        {"data.yaml": b"train: images"},
        {"ImageSets/Main/train.txt": b"a", "Annotations/a.xml": b""},
    ],
)
def test_what_no_format_can_read_is_said_with_what_was_seen(files: dict[str, bytes], source: Any) -> None:
    source.root.mkdir()
    for path, content in files.items():
        source.write(path, content)
    with pytest.raises(ValueError, match=r"auto recognises no data set in .*(empty|e\.g\. )"):
        seen(source)


def test_web_server_has_no_listing() -> None:
    with pytest.raises(ValueError, match="https cannot list files, so auto sees nothing; name the format"):
        look(Root("https://localhost/data"))


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_look_prints_a_section_and_write_sets_it(
    project: Path, source: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(source, train="train.json", valid="valid.json")
    before = Path("params.yaml").read_text()
    main(["--look", str(source.root)])
    printed = capsys.readouterr().out
    assert f"{source.root} is read as coco, because of train.json, valid.json, with images" in printed
    assert "train: 1 images, 1 boxes, 1 classes: cell\nval: 1 images, 1 boxes, 1 classes: cell\n" in printed
    assert "\ndata:\n  format: coco" in printed
    assert Path("params.yaml").read_text() == before
    main(["--look", str(source.root), "--write"])
    after = Path("params.yaml").read_text()
    data = load_params().data
    assert (data.format, data.root, data.test) == ("coco", str(source.root), None)
    assert (data.train.annotations, data.val.images) == ("train.json", "valid")
    assert load_params().evaluate.split == "val"
    assert {line.partition("#")[2] for line in before.splitlines()} - {
        line.partition("#")[2] for line in after.splitlines()
    } <= {" as for train", ""}
    main([])
    assert "val" in capsys.readouterr().out


@pytest.mark.usefixtures("project")
def test_prepare_reads_a_folder_by_itself(source: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(source, train="train.json", valid="valid.json", test="test.json")
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("format: shapes", "format: auto").replace("data/raw", str(source.root)))
    assert resolve(load_params().data).format == "coco"
    main([])
    assert "is read as coco, because of train.json, valid.json, test.json" in capsys.readouterr().out
    assert Path("data/prepared/test.json").is_file()


@pytest.mark.usefixtures("project")
def test_look_refuses_what_it_cannot_do(source: Any) -> None:
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        main(["--look", "nowhere"])
    with pytest.raises(ValueError, match="--write goes with --look"):
        main(["--write"])
