"""Laws of reading runs back: found by id, the beginning of one, or name; and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import open_run
from pipeline.tracking.reading import RunReader

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def begin(name: str, **params: object) -> str:
    with open_run(run_id=None, name=name, params=params, tags={"git.commit": "c0ffee"}) as run:
        run.log_metrics({"test.AP": 0.25})
        assert run.run_id is not None
        return run.run_id


def found(word: str) -> list[str]:
    return [run.run_id for run in RunReader().find(word)]


def test_run_is_found_by_id_beginning_and_name() -> None:
    run_id = begin("found by all")
    assert found(run_id) == found(run_id[:6]) == found("found by all") == [run_id]
    assert found(run_id[:5]) == []


def test_runs_of_one_name_come_newest_first() -> None:
    ids = [begin("twins") for _ in range(2)]
    assert found("twins") == ids[::-1]


def test_run_has_params_tags_and_metrics() -> None:
    (run,) = RunReader().find(begin("whole", gamma=1.5))
    assert (run.name, run.params["gamma"], run.tags["git.commit"]) == ("whole", "1.5", "c0ffee")
    assert run.metrics["test.AP"] == 0.25


def test_parameter_changed_on_the_way_has_its_later_value() -> None:
    run_id = begin("changed", nms_iou=0.5)
    with open_run(run_id=run_id, name="changed", params={"nms_iou": 0.6}, tags={}):
        pass
    (run,) = RunReader().find(run_id)
    assert run.params["nms_iou"] == "0.6"


def test_deleted_run_is_not_found(tracker: Any) -> None:
    run_id = begin("deleted")
    tracker.client().delete_run(run_id)
    assert found(run_id) == []


def test_artifacts_are_listed_and_fetched(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text("{}")
    with open_run(run_id=None, name="keeps", params={}, tags={}) as run:
        run.log_artifact(tmp_path / "test.json", "judged/test")
    assert run.run_id is not None
    reader, folder = RunReader(), tmp_path / "fetched"
    folder.mkdir()
    assert reader.list_artifacts(run.run_id, "judged") == ["test"]
    assert reader.list_artifacts(run.run_id, "nothing") == []
    assert reader.download(run.run_id, "judged/test/test.json", folder).read_text() == "{}"
    with pytest.raises(ValueError, match=r"cannot return artifact judged/val/val\.json of run"):
        reader.download(run.run_id, "judged/val/val.json", folder)


def test_store_that_does_not_exist_holds_no_run_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert RunReader().all() == []
    assert list(tmp_path.iterdir()) == []


def test_store_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")  # nothing listens on "discard"
    with pytest.raises(ValueError, match=r"MLflow at http://127\.0\.0\.1:9 .* does not answer") as told:
        RunReader().all()
    assert "secret" not in str(told.value)
