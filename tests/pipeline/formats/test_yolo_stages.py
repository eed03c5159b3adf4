"""A YOLO data set through the stages manifest and prepare: what is followed, and what a broken file leaves behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import manifest, prepare

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def project(source: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and a Roboflow export of two splits."""
    folder = source.root.parent
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    entry = {"annotations": "data.yaml", "images": None}
    params["data"] |= {"format": "yolo", "root": "source", "train": entry, "val": entry, "test": None}
    params["evaluate"]["split"] = "val"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    source.write("data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['rod']\n")
    for grey, split in enumerate(("train", "valid")):
        source.write(f"{split}/images/a.png", source.png(grey))
        source.write(f"{split}/labels/a.txt", "0 .5 .5 .2 .4")
    return Path(folder)


def test_manifest_changes_with_labels_images_and_data_yaml(project: Path, source: Any) -> None:
    manifest.main([])
    before = json.loads(manifest.MANIFEST.read_text())["sources"]
    assert set(before) == {"data.yaml", *(f"{s}/{k}/" for s in ("train", "valid") for k in ("images", "labels"))}
    source.write("valid/labels/a.txt", "0 .5 .5 .3 .4")
    manifest.main([])
    after = json.loads(manifest.MANIFEST.read_text())["sources"]
    assert [path for path in before if before[path] != after[path]] == ["valid/labels/"]


def test_manifest_stays_where_the_data_are_not_on_this_machine(project: Path) -> None:
    manifest.main([])
    before = manifest.MANIFEST.read_bytes()
    shutil.rmtree("source")
    manifest.main([])
    assert manifest.MANIFEST.read_bytes() == before
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("annotations: data.yaml", "annotations: other.yaml"))
    with pytest.raises(ValueError, match="there is no folder source here"):
        manifest.main([])


@pytest.mark.parametrize("broken", ["data.yaml", "valid/labels/a.txt"])
def test_broken_file_leaves_the_previous_outs(project: Path, source: Any, broken: str) -> None:
    prepare.main([])
    before = {path.name: path.read_bytes() for path in prepare.PREPARED.iterdir()} | {"": prepare.REPORT.read_bytes()}
    assert set(before) == {"train.json", "val.json", ""}
    source.write(broken, b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"{broken} is not UTF-8 text"):
        prepare.main([])
    after = {path.name: path.read_bytes() for path in prepare.PREPARED.iterdir()} | {"": prepare.REPORT.read_bytes()}
    assert after == before
