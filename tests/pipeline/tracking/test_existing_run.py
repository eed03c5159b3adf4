"""Laws of a run that is added to after its training: it is found, it is the only one, and its end stays."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.evaluate import detection, outputs
from pipeline.evaluate.__main__ import main as evaluate
from pipeline.tracking import Run, find_run, open_existing_run, open_run, outbox
from pipeline.tracking import run as tracking_run

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def digest(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a training, in an experiment of its own."""
    name = uuid.uuid4().hex[:16]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    return name


def begin_training(digest: str, **tags: str) -> Run:
    """A run of a training that is still at work."""
    return open_run(run_id=None, name="train", params={}, tags={"run_digest": digest, "host": "cluster", **tags})


def train(digest: str, **tags: str) -> Run:
    run = begin_training(digest, **tags)
    run.finish()
    return run


def join(digest: str, run_id: str | None = None) -> Run:
    return open_existing_run(run_id=run_id, digest=digest, name="evaluate", params={}, tags={"host": "here"})


def runs_of(tracker: Any, digest: str) -> list[Any]:
    client = tracker.client()
    return list(client.search_runs([client.get_experiment_by_name(digest).experiment_id]))


def test_training_is_found_by_its_digest_and_keeps_name_tags_and_end(tracker: Any, digest: str) -> None:
    training = train(digest)
    (before,) = runs_of(tracker, digest)
    with join(digest) as run:
        run.log_metrics({"test.AP": 0.5})
        (during,) = runs_of(tracker, digest)
    (after,) = runs_of(tracker, digest)
    assert run.run_id == training.run_id
    assert after.data.metrics["test.AP"] == 0.5
    assert [during.info.status, after.info.status] == ["FINISHED"] * 2
    assert (after.info.end_time, after.info.run_name) == (before.info.end_time, "train")
    assert after.data.tags == before.data.tags


def test_newest_training_that_has_finished_is_taken(tracker: Any, digest: str) -> None:
    trainings = [train(digest) for _ in range(3)]
    for number, training in enumerate(trainings):  # all may be born in one millisecond
        tracker.client().set_tag(training.run_id, "number", str(number))
    begun = begin_training(digest)
    found = [find_run("run_digest", digest)]
    while found[-1] is not None:
        assert join(digest).run_id == found[-1]
        tracker.client().delete_run(found[-1])
        found.append(find_run("run_digest", digest))
    assert set(found[:3]) == {training.run_id for training in trainings}
    assert found[3:] == [begun.run_id, None]


def test_known_id_goes_before_the_digest_unless_it_is_deleted(tracker: Any, digest: str) -> None:
    first, second = train(digest), train("another")
    assert join(digest, run_id=second.run_id).run_id == second.run_id
    tracker.client().delete_run(second.run_id)
    assert join(digest, run_id=second.run_id).run_id == first.run_id
    assert join(digest, run_id="0" * 32).run_id == first.run_id


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_evaluation_that_fails_leaves_the_training_as_it_was(
    tracker: Any, digest: str, error: type[BaseException]
) -> None:
    training = train(digest)
    with pytest.raises(error), join(digest):
        raise error
    (run,) = runs_of(tracker, digest)
    assert (run.info.run_id, run.info.status) == (training.run_id, "FINISHED")


def test_training_that_could_not_say_its_end_is_finished_by_its_evaluation(tracker: Any, digest: str) -> None:
    begin_training(digest)
    with pytest.raises(ZeroDivisionError), join(digest):
        _ = 1 / 0
    assert [run.info.status for run in runs_of(tracker, digest)] == ["RUNNING"]
    join(digest).finish()
    assert [run.info.status for run in runs_of(tracker, digest)] == ["FINISHED"]


def test_store_without_the_training_gets_one_run_with_name_and_tags(
    tracker: Any, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError), join(digest):
        _ = 1 / 0
    (failed,) = runs_of(tracker, digest)
    assert failed.info.status == "FAILED"
    assert f"has no run of training {digest}; starting a new one" in capsys.readouterr().out
    with join(digest) as again:
        again.log_metrics({"test.AP": 0.25})
    (run,) = runs_of(tracker, digest)
    assert (run.info.run_name, run.data.tags["run_digest"], run.data.tags["host"]) == ("evaluate", digest, "here")


def test_store_that_comes_back_during_the_work_is_asked_then(
    tracker: Any, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = train(digest)
    connect = tracking_run.connect
    monkeypatch.setattr(tracking_run, "connect", lambda store: (_ for _ in ()).throw(ConnectionError("away")))
    run = join(digest)
    assert run.run_id is None
    monkeypatch.setattr(tracking_run, "connect", connect)
    run.log_metrics({"test.AP": 0.5})
    run.finish()
    (found,) = runs_of(tracker, digest)
    assert (found.info.run_id, found.data.metrics["test.AP"]) == (training.run_id, 0.5)


# ---- the stage evaluate ----------------------------------------------------------------------------------------------


@pytest.fixture
def judged(untrained: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A detector of training d1, in a project whose storage knows nothing of it; the name of the experiment."""
    name = uuid.uuid4().hex[:16]
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text()) | {"storage": "elsewhere"}
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    return name


def test_evaluation_with_another_storage_joins_the_run_of_the_training(tracker: Any, judged: str) -> None:
    training = train("d1", **{"git.commit": "c0ffee"})
    evaluate([])
    evaluate([])
    (run,) = runs_of(tracker, judged)
    assert run.info.run_id == training.run_id
    assert run.data.tags["git.commit"] == "c0ffee"
    assert {"test.AP", "test.AR100"} <= set(run.data.metrics)


def test_evaluation_with_another_mlflow_has_a_run_that_says_whose_it_is(tracker: Any, judged: str) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "params"]):
        subprocess.run([*git, *arguments], check=True)
    evaluate([])
    (run,) = runs_of(tracker, judged)
    assert run.info.run_name == "evaluate d1"
    assert {"run_digest", "git.commit", "mlflow.source.name", "host", "torch"} <= set(run.data.tags)
    assert run.data.tags["kind"] == "evaluate"


@pytest.mark.usefixtures("judged")
def test_mlflow_that_goes_away_in_the_middle_costs_no_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train("d1")
    detect = detection.detect

    def detect_and_lose_mlflow(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr("mlflow.MlflowClient.get_run", lambda *_: (_ for _ in ()).throw(ConnectionError("away")))
        return detect(*arguments, **options)

    monkeypatch.setattr(outbox, "LAST_PAUSES_S", (0.0,))
    monkeypatch.setattr(detection, "detect", detect_and_lose_mlflow)
    evaluate([])
    assert all(path.exists() for path in (outputs.REPORT, outputs.DETECTIONS, outputs.CURVE_PICTURE, outputs.SHEET))
    told = capsys.readouterr()
    assert any(line.startswith("  ") for line in told.out.splitlines())  # the figures, by class
    assert "lacks records that were not sent" in told.err
