"""Laws of what the driver hears of a training: an event that cannot be handled costs no other, nor a curve."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from typing import Any

import pytest
from ray.util.queue import Empty

from pipeline.cli.progress import Progress
from pipeline.cluster.training import receive_events
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.identity import RUN_ID, RunFolder
from pipeline.storage import stores
from pipeline.train.run import Listener
from tests.flaky import FlakyStore, full_disk

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EPOCHS = 4


class Events:
    """The end of Ray's queue that the driver holds."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.queue: queue.Queue[dict[str, Any]] = queue.Queue()
        for event in events:
            self.queue.put(event)

    def get(self, timeout: float) -> dict[str, Any]:
        try:
            return self.queue.get(timeout=0.01)
        except queue.Empty:
            raise Empty from None


def reports(epochs: int = EPOCHS) -> list[dict[str, Any]]:
    """One after each epoch, with the whole history so far, as workers send it."""
    times = {"seconds": 1.0, "images_per_s": 1.0, "loss_cls": 0.5, "loss_box": 0.5}
    figures = [{"loss": 1 / n, "AP": n / 10, "AP50": n / 5} for n in range(1, epochs + 1)]
    rows = [{"epoch": n, "step": 3 * n, **row, **times} for n, row in enumerate(figures, start=1)]
    return [{"kind": "report", "is_partial": False, "step": 3 * n, "history": rows[:n]} for n in range(1, epochs + 1)]


def hear(on_event: Any, events: list[dict[str, Any]]) -> None:
    with receive_events(Events(events), on_event) as heard:
        heard.wait_for(events[-1])


@pytest.mark.parametrize("error", [OSError("AWS Error SLOW_DOWN"), KeyError("a bug")])
def test_event_that_fails_is_told_once_and_later_ones_are_heard(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        heard.append(event["step"])
        if event["step"] in (6, 9):
            raise error

    hear(on_event, reports())
    assert heard == [3, 6, 9, 12]
    told = capsys.readouterr()
    assert told.out.count("warning: an event of kind report was lost") == 1
    assert str(error) in told.out
    assert ("Traceback" in told.err) == isinstance(error, KeyError)


def listener_of(run: Any, folder: RunFolder, tmp_path: Path, **options: Any) -> Listener:
    return Listener(
        run, folder, Progress(EPOCHS), SampleImages(tmp_path / "val.json", root="", score_threshold=0.3), **options
    )


def test_curves_are_complete_though_the_second_event_fails(
    tracker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tracker.begin()
    listener = listener_of(run, RunFolder(str(tmp_path), "d1"), tmp_path)
    epoch, shown = listener.progress.epoch, []

    def show(history: list[dict[str, Any]]) -> None:
        shown.append(len(history))
        if len(history) == 2:
            raise OSError("AWS Error SLOW_DOWN")
        epoch(history)

    monkeypatch.setattr(listener.progress, "epoch", show)
    hear(listener, reports())
    run.finish()
    assert shown == [1, 2, 3, 4]
    assert [step for step, _ in tracker.curve(run, "loss")] == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("warning:") == 1


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(stores, "PAUSES_S", (0.0,))
    yield FlakyStore
    FlakyStore.reset()


def test_id_of_the_run_is_written_once(tracker: Any, tmp_path: Path, flaky: type[FlakyStore]) -> None:
    run = tracker.begin()
    folder = RunFolder("flaky://runs", "d1")
    flaky.reset()
    listener = listener_of(run, folder, tmp_path)
    listener.keep_run_id()
    hear(listener, reports())
    assert (folder.read(RUN_ID), flaky.writes) == (run.run_id, 1)
    resumed = listener_of(run, folder, tmp_path, kept=run.run_id)
    resumed.keep_run_id()
    assert flaky.writes == 1


def test_storage_that_takes_no_id_costs_one_warning_and_no_epoch(
    tracker: Any, tmp_path: Path, flaky: type[FlakyStore], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tracker.begin()
    flaky.reset(every=1, error=full_disk())
    folder = RunFolder("flaky://runs", "d1")
    listener = listener_of(run, folder, tmp_path)
    with pytest.raises(ValueError, match=r"flaky://runs/d1 cannot be used \(No space left on device\)"):
        listener.keep_run_id()  # before the work: nothing could be kept either
    hear(listener, reports())
    assert [step for step, _ in tracker.curve(run, "AP")] == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("warning: the id of the MLflow run was not stored: flaky://runs/d1") == 1
    flaky.reset()
    hear(listener, reports())
    assert folder.read(RUN_ID) == run.run_id


def test_bucket_that_answers_every_second_write_takes_the_id(
    tracker: Any, tmp_path: Path, flaky: type[FlakyStore]
) -> None:
    run = tracker.begin()
    flaky.reset(every=2)
    for digest in ("d1", "d2"):
        folder = RunFolder("flaky://runs", digest)
        begun = time.monotonic()
        listener_of(run, folder, tmp_path).keep_run_id()
        assert folder.read(RUN_ID) == run.run_id
        assert time.monotonic() - begun < 5
