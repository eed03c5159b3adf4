"""Laws of the stage prepare: deterministic outs, nothing good lost, one sentence for the user's mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline.prepare import PREPARED, REPORT, main

REPOSITORY = Path(__file__).parents[2]


def write_params(folder: Path, **data: Any) -> None:
    """The project's params.yaml with few small images, and `data` changed."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["data"]["shapes"] |= {"train": 4, "val": 2, "test": 2, "image_size": 32, "min_size": 8, "max_size": 16}
    params["data"] |= {"format": "shapes"} | data
    params["evaluate"]["split"] = "val"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def write_coco(folder: Path, boxes: list[list[float]]) -> None:
    """data/raw/{train,val}.json with one picture of 20 x 10 px, and params that name them."""
    (folder / "data/raw").mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "data/raw/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": bbox} for n, bbox in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    for split in ("train", "val"):
        (folder / f"data/raw/{split}.json").write_text(json.dumps(content))
    places: dict[str, Any] = {s: {"annotations": f"{s}.json", "images": "."} for s in ("train", "val")}
    write_params(folder, format="coco", root="data/raw", test=None, **places)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_prepare_writes_the_same_bytes_every_time(project: Path) -> None:
    write_params(project)
    main([])
    first, report = all_bytes(PREPARED), REPORT.read_bytes()
    main([])
    assert all_bytes(PREPARED) == first
    assert REPORT.read_bytes() == report
    assert sorted(path.name for path in PREPARED.iterdir()) == ["images", "test.json", "train.json", "val.json"]
    assert sorted(path.name for path in PREPARED.parent.iterdir()) == ["prepared", "splits.json"]


def test_pictures_of_shapes_are_found_from_the_prepared_file(project: Path) -> None:
    write_params(project)
    main([])
    content = json.loads((PREPARED / "train.json").read_text())
    assert all(Path(content["info"]["root"], image["file_name"]).is_file() for image in content["images"])


def test_prepared_files_are_compact_with_sorted_keys(project: Path) -> None:
    write_coco(project, [[1, 2, 3, 4]])
    main([])
    text = (PREPARED / "train.json").read_text()
    assert text.startswith('{"annotations":[{"area":12.0,"bbox":[1.0,2.0,3.0,4.0],"category_id":1,"id":1,"image_id":1')
    assert text.endswith('"info":{"root":"data/raw","split":"train"}}\n')


def test_no_test_split_writes_no_test_file(project: Path) -> None:
    write_params(project, test=None)
    main([])
    assert sorted(path.name for path in PREPARED.glob("*.json")) == ["train.json", "val.json"]
    assert sorted(json.loads(REPORT.read_text())["splits"]) == ["train", "val"]


def test_dropped_records_are_printed_and_reported(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(project, [[1, 2, 0, 4], [1, 2, 3, 4]])
    main([])
    printed = capsys.readouterr().out
    assert "dropped: a.png annotation 1 cell [1, 2, 0, 4]: zero area (data/raw/train.json)" in printed
    report = json.loads(REPORT.read_text())
    assert [(record["split"], record["record"]) for record in report["dropped"]] == [
        ("train", "annotation 1"),
        ("val", "annotation 1"),
    ]
    assert report["leaks"][0]["images"] == {"train": ["a.png"], "val": ["a.png"]}


def test_failure_leaves_the_old_outs_whole(project: Path) -> None:
    write_coco(project, [[1, 2, 3, 4]])
    main([])
    first, report = all_bytes(PREPARED), REPORT.read_bytes()
    Path("data/raw/val.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.val\.annotations"):
        main([])
    assert all_bytes(PREPARED) == first
    assert REPORT.read_bytes() == report


def test_mistake_of_the_user_is_one_sentence_and_not_a_traceback(project: Path) -> None:
    write_coco(project, [])
    Path("data/raw/train.json").unlink()
    command = [sys.executable, "-m", "pipeline.prepare"]
    answer = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)}, check=False)
    assert answer.returncode == 1
    assert answer.stderr == (
        "prepare: data.train.annotations: there is no file data/raw/train.json; "
        "check data.root and data.train.annotations in params.yaml\n"
    )


def test_prepare_enters_neither_torch_nor_ray_nor_mlflow() -> None:
    code = (
        "import sys, pipeline.prepare\n"
        "try: pipeline.prepare.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'mlflow', 'dvc', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "reads    params.yaml" in answer.stdout
    assert answer.stdout.endswith("[]\n")
