"""Laws of a run in the store: one curve whatever was killed, and what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.stop import StoppedError
from pipeline.tracking import NoopRun, Run
from pipeline.tracking.records import clean_name

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_resume_gives_one_curve_without_gap_or_double(tracker: Any) -> None:
    first = tracker.begin()
    first.log_history(tracker.history(2))
    first.log_history(tracker.history(3))
    second = tracker.begin(run_id=first.run_id)  # killed after epoch 2: the run is never finished
    second.log_history(tracker.history(3))
    second.log_history(tracker.history(5))
    second.finish()
    assert second.run_id == first.run_id
    assert tracker.curve(second, "step") == [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50)]
    assert tracker.curve(second, "AP") == [(1, 0.25), (3, 0.75)]  # None is no point
    assert tracker.client().get_run(tracker.id_of(second)).info.status == "FINISHED"


def test_continued_run_is_running_again(tracker: Any) -> None:
    run = tracker.begin()
    run.finish()
    again = tracker.begin(run_id=run.run_id)
    assert tracker.client().get_run(tracker.id_of(again)).info.status == "RUNNING"


def test_empty_history_makes_no_curve(tracker: Any) -> None:
    run = tracker.begin()
    run.log_history([])
    assert tracker.curve(run, "step") == []


def test_unknown_run_begins_a_new_one_and_says_so(tracker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = tracker.begin(run_id="0" * 32)
    assert run.run_id not in (None, "0" * 32)
    assert "has no run 0000" in capsys.readouterr().out


def test_deleted_run_begins_a_new_one(tracker: Any) -> None:
    run = tracker.begin()
    tracker.client().delete_run(tracker.id_of(run))
    assert tracker.begin(run_id=run.run_id).run_id != run.run_id


def test_block_that_fails_leaves_a_failed_run(tracker: Any) -> None:
    with pytest.raises(ZeroDivisionError), tracker.begin() as failed:
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), tracker.begin() as killed:
        raise KeyboardInterrupt
    with pytest.raises(StoppedError), tracker.begin() as stopped:
        raise StoppedError("stopped with a checkpoint")
    assert tracker.client().get_run(tracker.id_of(stopped)).info.status == "KILLED"
    assert tracker.client().get_run(tracker.id_of(failed)).info.status == "FAILED"
    assert tracker.client().get_run(tracker.id_of(killed)).info.status == "KILLED"


def test_status_that_was_given_stays_at_the_end_of_the_block(tracker: Any) -> None:
    with tracker.begin() as run:
        run.finish("KILLED")
    assert tracker.client().get_run(tracker.id_of(run)).info.status == "KILLED"
    again = tracker.begin(run_id=run.run_id)
    again.finish()
    assert tracker.client().get_run(tracker.id_of(run)).info.status == "FINISHED"


def test_run_leaves_no_active_run_behind(tracker: Any) -> None:
    tracker.begin().finish()
    import mlflow

    assert mlflow.active_run() is None


def test_params_are_spelt_as_in_the_file_and_the_same_value_may_come_again(
    tracker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    params: dict[str, object] = {"loss.alpha": None, "anchors.aspect_ratios": [0.5, 1.0], "anchors.rounded": False}
    run = tracker.begin(params=params | {"data.root": "data/raw", "data.classes": "x" * 7000})
    tracker.begin(run_id=run.run_id, params=params | {"data.root": "data/raw", "data.classes": "x" * 7000, "seed": 1})
    held = tracker.client().get_run(tracker.id_of(run)).data.params
    assert held.pop("data.classes") == "x" * 6000
    assert held == {
        "loss.alpha": "null",
        "anchors.aspect_ratios": "[0.5, 1.0]",
        "anchors.rounded": "false",
        "data.root": "data/raw",
        "seed": "1",
    }
    assert capsys.readouterr().err == ""


def test_changed_param_is_told_and_the_others_are_kept(tracker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = tracker.begin(params={"evaluate.split": "val"})
    tracker.begin(run_id=run.run_id, params={"evaluate.split": "test", "evaluate.pictures": 16})
    data = tracker.client().get_run(tracker.id_of(run)).data
    assert data.params == {"evaluate.split": "val", "evaluate.pictures": "16"}
    assert data.tags["changed.evaluate.split"] == "test"
    assert "keeps evaluate.split = val, but continues with test" in capsys.readouterr().err
    tracker.begin(run_id=run.run_id, params={"evaluate.split": "val"})
    assert "changed.evaluate.split" not in tracker.client().get_run(tracker.id_of(run)).data.tags


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("val/AP50", "val/AP50"),
        ("AP@[.5:.95]", "AP__.5:.95_"),
        ("per_class.traffic light (red).AP", "per_class.traffic light _red_.AP"),
        ("//a/../b%", "a/_/b_"),
        ("K\u00e4fer", "K\u00e4fer"),
        ("", "_"),
    ],
)
def test_odd_names_become_names_that_mlflow_takes(tracker: Any, name: str, clean: str) -> None:
    assert clean_name(name) == clean
    run = tracker.begin()
    run.log_metrics({name: 0.25, "x" * 300: 1.0, "diverged": float("nan")}, step=3)
    assert tracker.curve(run, clean) == [(3, 0.25)]


def test_refused_record_is_told_once_and_blocks_nothing(
    tracker: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tracker.begin()
    run.log_artifact(tmp_path / "missing.png")
    run.log_artifact(tmp_path / "missing too.png")
    run.log_metrics({"AP": 0.5})
    assert tracker.curve(run, "AP") == [(0, 0.5)]
    assert capsys.readouterr().err.count("MLflow rejects artifact") == 1


def test_best_epoch_so_far_has_curves_of_its_own(tracker: Any) -> None:
    """A table of runs shows the last value of a curve, and the last epoch is not the best."""
    run = tracker.begin()
    scores = [(1, 0.25, 0.5), (2, None, None), (3, 0.5, 0.625), (4, 0.375, 0.75)]
    rows = [{"epoch": n, "step": n, "AP": ap, "AP50": ap50} for n, ap, ap50 in scores]
    run.log_history(rows[:2])
    run.log_history(rows)
    assert tracker.curve(run, "best.AP") == [(1, 0.25), (2, 0.25), (3, 0.5), (4, 0.5)]
    assert tracker.curve(run, "best.AP50") == [(1, 0.5), (2, 0.5), (3, 0.625), (4, 0.625)]
    assert tracker.curve(run, "best.epoch")[-1] == (4, 3)


def test_history_without_ap_has_no_best(tracker: Any) -> None:
    run = tracker.begin()
    run.log_history([{"epoch": 1, "step": 1, "loss": 1.0}])
    assert tracker.curve(run, "best.AP") == tracker.curve(run, "best.epoch") == []


def test_text_becomes_a_file_of_the_run(tracker: Any) -> None:
    run = tracker.begin()
    run.log_text("diff", "code/git.diff")
    (file,) = tracker.client().list_artifacts(tracker.id_of(run), "code")
    assert (file.path, file.file_size) == ("code/git.diff", 4)


def test_picture_may_come_as_bytes(tracker: Any, tmp_path: Path) -> None:
    run = tracker.begin()
    run.log_picture("sheet", tracker.png(tmp_path / "sheet.png").read_bytes(), step=2)
    names = [file.path for file in tracker.client().list_artifacts(tracker.id_of(run), "images")]
    assert len(names) == 2 and all(name.startswith("images/sheet+step+2+") for name in names)


def test_pictures_lie_in_the_image_grid_with_their_step(tracker: Any, tmp_path: Path) -> None:
    run = tracker.begin()
    run.log_picture("val/predictions: best", tracker.png(tmp_path / "sheet.png"), step=4)
    names = [file.path for file in tracker.client().list_artifacts(tracker.id_of(run), "images")]
    assert sorted(Path(name).suffix for name in names) == [".png", ".webp"]
    assert all(name.startswith("images/val~predictions_ best+step+4+") for name in names)


def test_dataset_is_an_input_once_and_its_source_can_be_read(tracker: Any, tmp_path: Path) -> None:
    import mlflow.data

    run = tracker.begin()
    for _ in range(2):  # a resume says it again
        run.log_dataset(
            name="BCCD", digest="a" * 64, source="data/raw/BCCD", context="training", profile={"num_rows": 205}
        )
    inputs = tracker.client().get_run(tracker.id_of(run)).inputs
    assert inputs is not None
    (given,) = inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("BCCD", "a" * 36)
    assert json.loads(given.dataset.profile or "") == {"num_rows": 205}
    assert [tag.value for tag in given.tags] == ["training"]
    assert mlflow.data.get_source(given.dataset).to_dict() == {"uri": "data/raw/BCCD"}


def test_silent_run_knows_every_verb_and_does_nothing(tracker: Any, tmp_path: Path) -> None:
    run = NoopRun()
    run.log_history(tracker.history(2))
    run.log_metrics({"AP": 1.0})
    run.log_artifact(tmp_path)
    run.log_picture("a", tmp_path, 1)
    run.log_text("a", "b")
    run.log_system_metrics()
    run.log_dataset(name="a", digest="b", source="c", context="d", profile={})
    run.set_tags({"a": "b"})
    run.finish()
    assert run.log_model(tmp_path, class_names=["a"]) is None
    assert run.run_id is None
    verbs = {name for name in vars(Run) if not name.startswith("_")} - {"open", "try_to_open", "log_params"}
    assert verbs <= set(vars(NoopRun))


def test_link_to_an_artifact_ends_the_description_once(tracker: Any) -> None:
    run = tracker.begin()
    run.set_tags({"mlflow.note.content": "AP 0.5"})
    for _ in range(2):
        run.link_artifact("evaluate.html", "Report")
    held = tracker.client().get_run(tracker.id_of(run))
    path = f"#/experiments/{held.info.experiment_id}/runs/{run.run_id}/artifacts/evaluate.html"
    assert held.data.tags["mlflow.note.content"] == f"AP 0.5\n\n[Report]({path})"
