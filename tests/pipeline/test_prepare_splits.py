"""Laws of the stage prepare where it cuts splits: the record keeps old images in place, a mistake is a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.prepare import PREPARED, RECORD, REPORT, main
from tests.textures import encode, texture, write

REPOSITORY = Path(__file__).parents[2]
SPLITS = ("train", "val", "test")
NONE = np.zeros((0, 2), np.int64)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without the page, which takes half a second."""
    monkeypatch.setattr("pipeline.prepare.draw_overview", lambda coco: SimpleNamespace(savefig=Path.touch))
    monkeypatch.setattr("pipeline.prepare.build_page", lambda *arguments, **options: "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def set_data(*, evaluate: str = "test", **data: Any) -> None:
    """The project's params.yaml for data/raw/train.json alone, whose splits are cut; section `data` changed."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    split = params["data"]["split"] | {"val": 0.2, "test": 0.2} | data.pop("split", {})
    files = {"train": {"annotations": "train.json", "images": "images"}, "val": None, "test": None}
    params["data"] |= {"format": "coco", "root": "data/raw", **files, "split": split} | data
    params["evaluate"]["split"] = evaluate
    Path("params.yaml").write_text(yaml.safe_dump(params))


def draw_images(numbers: range) -> None:
    """data/raw/train.json with images of these numbers, each with a box; every fifth is of class bee."""
    for number in numbers:
        if not (path := Path(f"data/raw/images/{number}.png")).exists():
            write(path, encode(texture(number, 48, 36)))
    content = {
        "images": [{"id": n + 1, "file_name": f"{n}.png"} for n in numbers],
        "annotations": [
            {"id": n + 1, "image_id": n + 1, "category_id": 1 + (n % 5 == 0), "bbox": [2, 2, 9, 9]} for n in numbers
        ],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
    }
    Path("data/raw/train.json").write_text(json.dumps(content))


def places() -> dict[str, str]:
    """The split of each image, by the prepared files."""
    contents = {split: json.loads((PREPARED / f"{split}.json").read_text()) for split in SPLITS}
    return {image["file_name"]: split for split, content in contents.items() for image in content["images"]}


def outs() -> dict[str, bytes]:
    files = [*PREPARED.glob("*.json"), RECORD, REPORT]
    return {str(path): path.read_bytes() for path in files}


def test_splits_are_cut_recorded_and_the_same_when_cut_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_data()
    draw_images(range(30))
    main([])
    first, found = outs(), places()
    record = json.loads(RECORD.read_text())
    assert record["splits"] == found
    assert [list(found.values()).count(split) for split in SPLITS] == [18, 6, 6]
    printed = capsys.readouterr().out
    assert "data/splits.json: 0 images keep their split, 30 are new" in printed
    assert "val (20 %) and test (20 %) are cut from train, whose 30 images form 30 groups (data.split)" in printed
    counts = json.loads(REPORT.read_text())["splits"]
    for name in ("ant", "bee"):
        assert f"{name:9}" + "".join(f"{counts[split]['boxes_per_class'][name]:>10}" for split in SPLITS) in printed
        assert all(counts[split]["boxes_per_class"][name] for split in SPLITS)
    main([])
    assert outs() == first
    RECORD.unlink()
    main([])
    assert outs() == first


def test_new_images_move_no_old_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_data()
    draw_images(range(20))
    main([])
    before = places()
    draw_images(range(30))
    main([])
    after = places()
    assert {path: after[path] for path in before} == before
    assert [list(after.values()).count(split) for split in SPLITS] == [18, 6, 6]
    assert "data/splits.json: 20 images keep their split, 10 are new" in capsys.readouterr().out
    draw_images(range(10, 30))  # the others are missing for a while
    main([])
    draw_images(range(30))
    main([])
    assert places() == after


@pytest.mark.parametrize("changed", [{"seed": 2}, {"val": 0.4}, {"duplicates": None}, {"group": r"/(\d)"}])
def test_another_setting_cuts_anew(project: Path, changed: dict[str, Any]) -> None:
    set_data()
    draw_images(range(20))
    main([])
    record = json.loads(RECORD.read_text())
    turned = {path: {"train": "val", "val": "test", "test": "train"}[split] for path, split in record["splits"].items()}
    RECORD.write_text(json.dumps(record | {"splits": turned}))
    main([])
    assert places() == turned  # as the file says, also where a hand has changed it
    set_data(split=changed)
    main([])
    assert places() != turned
    assert json.loads(RECORD.read_text())["splits"] == places()


def test_record_of_another_data_set_is_replaced(project: Path) -> None:
    set_data()
    draw_images(range(20))
    main([])
    draw_images(range(40, 60))
    main([])
    assert set(json.loads(RECORD.read_text())["splits"]) == {f"images/{n}.png" for n in range(40, 60)}


def test_only_the_split_without_files_is_cut(project: Path) -> None:
    draw_images(range(30, 36))
    Path("data/raw/train.json").rename("data/raw/val.json")
    draw_images(range(30))
    set_data(val={"annotations": "val.json", "images": "images"})
    main([])
    found = list(places().values())
    assert [found.count(split) for split in SPLITS] == [24, 6, 6]
    assert set(json.loads(RECORD.read_text())["splits"].values()) == {"train", "test"}


def test_drawn_shapes_keep_the_record_and_make_an_empty_one(project: Path) -> None:
    shapes = {"train": 3, "val": 2, "test": 2, "image_size": 32, "min_size": 8, "max_size": 16, "max_objects": 2}
    shapes |= {"empty_fraction": 0.0, "noise": 1.0}
    set_data(format="shapes", shapes=shapes, **{key: {"annotations": None, "images": None} for key in SPLITS})
    main([])
    assert json.loads(RECORD.read_text()) == {"settings": {}, "splits": {}}
    RECORD.write_text('{"mine": 1}')
    main([])
    assert RECORD.read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "{",
            r"data/splits\.json is not a record of splits \(JSONDecodeError: .*\); restore it from git, or delete",
        ),
        ("[]", r"data/splits\.json is not a record of splits \(TypeError: "),
        ("{}", r"data/splits\.json is not a record of splits \(KeyError: 'settings'\)"),
        ("tset", r"data/splits\.json: images/\d+\.png is in 'tset'; expected one of train, val, test"),
    ],
)
def test_broken_record_stops_with_a_sentence_and_leaves_the_outs(project: Path, content: str, sentence: str) -> None:
    set_data()
    draw_images(range(12))
    main([])
    RECORD.write_text(RECORD.read_text().replace('"test",', '"tset",') if content == "tset" else content)
    before = outs()
    with pytest.raises(ValueError, match=sentence):
        main([])
    assert outs() == before


def test_one_group_is_refused_and_leaves_the_outs(project: Path) -> None:
    set_data()
    draw_images(range(12))
    main([])
    before = outs()
    set_data(split={"group": "images"})
    with pytest.raises(ValueError, match=r"data\.split cannot cut val and test .* form only 1 group that must stay"):
        main([])
    assert outs() == before


def test_data_set_without_a_split_is_refused_where_none_is_cut(project: Path) -> None:
    draw_images(range(6))
    set_data(format="auto", evaluate="val", split={"val": 0.0})
    with pytest.raises(ValueError, match=r"data/raw has no split val; name its files in data\.val, or set data\.split"):
        main([])
    ignored = {"annotations": None, "images": None}
    set_data(format="auto", test=ignored, split={"test": 0.0})
    with pytest.raises(ValueError, match=r"evaluate\.split is test, which data/raw does not have; set it to val, or"):
        main([])


def test_images_that_a_policy_drops_keep_their_split(project: Path) -> None:
    """Else a second run takes them for new ones, and other images follow them."""
    draw_images(range(30))
    path = Path("data/raw/train.json")
    content = json.loads(path.read_text())
    for image in content["images"][::6]:
        image |= {"width": 999, "height": 36}
    path.write_text(json.dumps(content))
    checks = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["data"]["checks"]
    set_data(checks=checks | {"size": "drop_image"})
    main([])
    first = outs()
    assert len(places()) == 25 and len(json.loads(RECORD.read_text())["splits"]) == 30
    main([])
    assert outs() == first
    set_data()
    main([])
    assert places() == json.loads(RECORD.read_text())["splits"]
    assert RECORD.read_bytes() == first[str(RECORD)]


def write_patients(patient_of: dict[int, object]) -> None:
    rows = "".join(f"images/{number}.png,{patient}\n" for number, patient in patient_of.items())
    Path("data/raw/patients.csv").write_text(f"path,patient\n{rows}")


PATIENTS = {
    "columns": {"names": ["patient"], "table": "patients.csv", "image": None},
    "split": {"group": {"column": "patient"}},
}


def test_images_of_one_value_of_a_column_stay_together_and_new_ones_join_them(project: Path) -> None:
    """30 images of 10 patients, which their names do not show; then 5 images more, when those of patient 3 are gone."""
    patient_of = {number: number % 10 for number in range(35)}
    draw_images(range(30))
    write_patients(patient_of)
    set_data(**PATIENTS)
    main([])
    before = places()
    splits_of = {patient: {before[f"images/{n}.png"] for n in range(30) if n % 10 == patient} for patient in range(10)}
    assert {len(splits) for splits in splits_of.values()} == {1}
    record = json.loads(RECORD.read_text())
    assert record["settings"]["group"] == {"column": "patient"}
    assert record["groups"] == {f"images/{number}.png": str(number % 10) for number in range(30)}
    assert json.loads((PREPARED / "train.json").read_text())["images"][0]["columns"].keys() == {"patient"}
    draw_images(range(34))
    content = json.loads(Path("data/raw/train.json").read_text())
    gone = {number + 1 for number in range(30) if number % 10 == 3}
    content["images"] = [image for image in content["images"] if image["id"] not in gone]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] not in gone]
    Path("data/raw/train.json").write_text(json.dumps(content))
    main([])
    after = places()
    assert {path: after[path] for path in after.keys() & before.keys()} == {
        path: before[path] for path in after.keys() & before.keys()
    }
    for number in range(30, 34):
        assert splits_of[number % 10] == {after[f"images/{number}.png"]}


def test_image_without_a_patient_is_refused_and_leaves_the_outs_unless_it_may_stay_alone(project: Path) -> None:
    checks = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["data"]["checks"]
    draw_images(range(12))
    write_patients({number: number % 5 if number else "" for number in range(12)})
    set_data(**PATIENTS)
    with pytest.raises(
        ValueError, match=r"columns: 1, the first: images/0\.png image: no value of patient \(data\.col"
    ):
        main([])
    assert not RECORD.exists()
    set_data(**PATIENTS, checks=checks | {"columns": "keep"})
    main([])
    report = json.loads(REPORT.read_text())
    assert "data.split.group does not match 1 of the 12 images of train, e.g. images/0.png" in report["notes"]
    assert "images/0.png" not in json.loads(RECORD.read_text())["groups"]


def test_near_copies_are_searched_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the cut and for leaks; a second search only after a policy has dropped images."""
    searched = []
    monkeypatch.setattr(
        "pipeline.formats.duplicates.find_copies", lambda found, similarity: (searched.append(len(found)), NONE)[1]
    )
    set_data()
    draw_images(range(20))
    main([])
    assert searched == [20]
