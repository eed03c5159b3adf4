"""Laws of the command compare: on revisions of git and DVC, on MLflow runs, and on the workspace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.compare.__main__ import SHEET, main
from pipeline.compare.run import REPORT
from pipeline.compare.runs import find_run
from pipeline.tracking import open_run
from tests.judged_world import Row, exact_results, random_results

Leave = Callable[..., None]
Report = Callable[[], dict[str, Any]]
Say = Callable[..., str]
FEW = ("--resamples", "100")


@pytest.fixture
def poor(truth: dict[str, Any]) -> list[Row]:
    return random_results(truth, 5, jitter=0.15, found=0.6)


@pytest.fixture
def good(truth: dict[str, Any]) -> list[Row]:
    return exact_results(truth)


def commit(say: Say, message: str) -> str:
    say("git", "add", "-A")
    say("git", "commit", "-q", "-m", message)
    return say("git", "rev-parse", "HEAD").strip()


@pytest.fixture
def revision(repository: Say, leave: Leave, poor: list[Row], good: list[Row]) -> Say:
    """A poor run in the commit, a good one of another gamma in the workspace."""
    leave(poor)
    commit(repository, "poor")
    leave(good, gamma=1.5)
    return repository


@pytest.mark.usefixtures("revision")
def test_workspace_is_compared_with_its_commit(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    main(["main", "workspace", *FEW])
    content, printed = report(), capsys.readouterr().out
    assert printed.rstrip().endswith(content["verdict"])
    assert content["verdict"].startswith("B is better (AP +0.")
    assert content["changes"]["params"] == {"loss.gamma": ["2.0", "1.5"]}
    assert content["changes"]["data"].startswith("the same train split")
    assert content["changes"]["code"].startswith("the same commit")
    assert content["split"]["images"] == 40
    assert content["metrics"]["AP"]["b"] == pytest.approx(1.0)
    assert "  loss.gamma: 2.0 -> 1.5" in printed
    with Image.open(SHEET) as sheet:
        assert min(sheet.size) > 300


@pytest.mark.usefixtures("revision")
def test_same_comparison_writes_the_same_bytes() -> None:
    main(["main", "workspace", *FEW])
    first = [path.read_bytes() for path in (REPORT, SHEET)]
    main(["main", "workspace", *FEW])
    assert [path.read_bytes() for path in (REPORT, SHEET)] == first


@pytest.mark.usefixtures("revision")
def test_run_against_itself_has_no_sheet(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    main(["main", "HEAD", *FEW])
    assert report()["verdict"] == "no significant difference (AP +0.000, 95 % +0.000 to +0.000)"
    assert "no image differs" in capsys.readouterr().out
    assert not SHEET.exists()


@pytest.mark.usefixtures("revision")
def test_pictures_that_are_away_are_told_and_the_rest_is_said(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["main", "workspace", *FEW, "--data-root", "nowhere"])
    assert "no sheet was drawn, because the images cannot be read here: " in capsys.readouterr().out
    assert report()["pictures"]
    assert not SHEET.exists()


@pytest.mark.usefixtures("repository")
def test_detections_of_another_evaluation_are_refused(leave: Leave, poor: list[Row], repository: Say) -> None:
    leave(poor, ap=0.9)
    commit(repository, "poor")
    with pytest.raises(
        ValueError, match=r"revision main .* have AP 0\.\d+, but it reported 0\.9000: they come from different"
    ):
        main(["main", "main", *FEW])


@pytest.mark.usefixtures("revision")
def test_split_that_no_run_has_is_told() -> None:
    with pytest.raises(ValueError, match=r"not evaluated on the same split \(A on test, B on test\).* --split val"):
        main(["main", "workspace", "--split", "val"])


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("option", [["--resamples", "0"], ["--seed", "-1"], ["--pictures", "-1"]])
def test_numbers_that_make_no_sense_are_refused(option: list[str]) -> None:
    with pytest.raises(ValueError, match=option[0]):
        main(["a", "b", *option])


@pytest.mark.slow
def test_experiments_of_dvc_are_compared_and_near_names_are_told(
    repository: Say, leave: Leave, poor: list[Row], good: list[Row], report: Report
) -> None:
    repository("dvc", "init", "-q")
    leave(poor)
    files = ("reports/detections.json.gz", "data/prepared")
    repository("dvc", "add", "-q", *files)
    base = commit(repository, "poor")
    leave(good, gamma=1.5)
    repository("dvc", "add", "-q", *files)
    repository("dvc", "exp", "save", "-n", "gentle")
    repository("git", "checkout", "-q", "--", ".")
    repository("dvc", "checkout", "-q", "--force")
    main([base[:8], "gentle", *FEW])
    assert report()["verdict"].startswith("B is better")
    assert report()["changes"]["params"] == {"loss.gamma": ["2.0", "1.5"]}
    assert report()["changes"]["data"].startswith("the same train split")
    with pytest.raises(ValueError, match=r"gentel is not a known run; expected .*; the nearest are gentle"):
        find_run("gentel")
    (Path(".dvc/cache")).rename(Path("elsewhere"))
    with pytest.raises(ValueError, match=r"has no data/prepared/test\.json that git or DVC can read here .*dvc fetch"):
        main([base, "gentle", *FEW])


def track(results: str, *, name: str, gamma: float) -> str:
    tags = {"data_hash": "d" * 64, "host": "here", "git.commit": "f" * 40}
    with open_run(run_id=None, name=name, params={"loss.gamma": gamma, "conf.precision": "bf16"}, tags=tags) as run:
        if results:
            run.log_artifact(Path("reports/detections.json.gz"), "judged/test")
            run.log_artifact(Path("data/prepared/test.json"), "judged/test")
        assert run.run_id is not None
        return run.run_id


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's tables
def test_runs_of_mlflow_need_nothing_but_the_store(
    leave: Leave, poor: list[Row], good: list[Row], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(poor)
    first = track("poor", name="steep", gamma=2.0)
    leave(good)
    track("good", name="gentle", gamma=1.5)
    track("", name="old", gamma=1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').resolve()}")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    main([first[:8], "gentle", *FEW])
    assert report()["verdict"].startswith("B is better")
    assert report()["changes"]["params"] == {"loss.gamma": ["2.0", "1.5"]}
    assert report()["changes"]["environment"] == {}
    assert not Path("plots/compare.png").exists()  # no pictures here, and no conf/ to say where they are
    with pytest.raises(ValueError, match="has no stored detections; run the evaluate stage for it again"):
        main([first, "old", *FEW])
    with pytest.raises(ValueError, match=r"gentel is not a known run; .* the nearest are gentle"):
        main([first, "gentel", *FEW])

    track("", name="gentle", gamma=1.0)
    with pytest.raises(ValueError, match=r"2 MLflow runs are named gentle: \w{8}, \w{8}; give one of these ids"):
        main([first, "gentle", *FEW])


@pytest.mark.slow
@pytest.mark.usefixtures("revision")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_name_of_a_run_and_a_revision_must_say_which(repository: Say) -> None:
    run_id = track("good", name="main", gamma=1.0)
    with pytest.raises(
        ValueError, match=r"main is both an MLflow run and a git or DVC revision; write mlflow:main or git:main"
    ):
        find_run("main")
    assert find_run("mlflow:main").label == f"MLflow run {run_id[:8]} (main)"
    assert find_run("git:main").label.startswith("revision main")


@pytest.mark.usefixtures("workspace")
def test_results_files_are_compared_on_the_prepared_split(
    truth: dict[str, Any], poor: list[Row], good: list[Row], report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    Path("poor.json").write_text(json.dumps([row | {"image_id": names[row["image_id"]]} for row in poor]))
    Path("good.json").write_text(json.dumps(good))
    main(["poor.json", "good.json", *FEW])
    content, printed = report(), capsys.readouterr().out
    assert content["verdict"].startswith("B is better")
    assert content["metrics"]["AP"]["b"] == pytest.approx(1.0)
    assert content["runs"] == {"A": "file poor.json", "B": "file good.json"}
    assert "params  not known for both runs" in printed
    with pytest.raises(ValueError, match=r"none\.json does not exist; give a COCO results file"):
        main(["none.json", "good.json", *FEW])
