"""A storage that is away for a while costs a sweep a warning; its records are written when it answers again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.runs.sweep_folder import SweepFolder
from pipeline.storage import stores
from pipeline.sweep.listener import Listener
from pipeline.sweep.records import configure, newest_sweep

AWAY = OSError("AWS Error SLOW_DOWN during PutObject operation")


class AwayStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store in memory, which does not answer while `is_away`."""

    protocol = "away"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    is_away = False
    requests = 0

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self._answer()
        return super()._open(path, *arguments, **options)

    def ls(self, path: str, *arguments: Any, **options: Any) -> Any:
        self._answer()
        return super().ls(path, *arguments, **options)

    def _answer(self) -> None:
        type(self).requests += 1
        if self.is_away:
            raise AWAY


class Trial:
    """What the listener knows of Ray's."""

    def __init__(self, number: int) -> None:
        self.config = configure({"loss.alpha": number / 10}, seed=1, number=number)

    def __str__(self) -> str:
        return str(self.config["key"])


class SilentRun:
    run_id = "r"

    def log_history(self, history: object) -> None: ...
    def set_tags(self, tags: object) -> None: ...
    def finish(self, status: str = "FINISHED") -> None: ...


class NoSampleImages:
    def keep(self, found: object, *, epoch: int) -> None: ...
    def log(self, run: object, *, epoch: int) -> None: ...


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[AwayStore]]:
    fsspec.register_implementation("away", AwayStore, clobber=True)
    monkeypatch.setattr(stores.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(AwayStore, "store", {})
    monkeypatch.setattr(AwayStore, "pseudo_dirs", [""])
    monkeypatch.setattr(AwayStore, "requests", 0)
    yield AwayStore
    AwayStore.is_away = False


def listener(folder: SweepFolder, *, trials: int = 2) -> Listener:
    heard = Listener(
        folder,
        trials=trials,
        epochs=1,
        open_run=lambda configuration, run_id: SilentRun(),  # type: ignore[arg-type,return-value]
        sample_images=NoSampleImages(),  # type: ignore[arg-type]
    )
    heard.setup()
    return heard


def train(heard: Listener, trial: Trial, **more: Any) -> None:
    """All that Ray tells of a trial."""
    row = {"epoch": 1, "loss": 1.0, "AP": 0.5, "images_per_s": 1.0}
    heard.on_trial_start(0, [], trial)
    heard.on_trial_result(0, [], trial, {"history": [row], "score": 0.5, "time_this_iter_s": 1.0, **more})
    heard.on_trial_complete(0, [], trial)


def test_records_that_the_storage_did_not_take_are_written_when_it_answers(
    store: type[AwayStore], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder("away://s/d1")
    heard = listener(folder)
    store.is_away = True
    train(heard, Trial(1))
    told = capsys.readouterr().out
    assert "warning: away://s/d1 cannot be used (AWS Error SLOW_DOWN" in told
    assert "1 of 2 trials ended" in told
    store.is_away = False
    assert folder.records() == []
    train(heard, Trial(2))
    assert [(record["number"], record["state"]) for record in folder.records()] == [(1, "finished"), (2, "finished")]


@pytest.mark.parametrize(("is_complete", "state"), [(True, "finished"), (False, "stopped")])
def test_trial_that_ended_early_has_finished_and_one_that_the_scheduler_ended_has_not(
    is_complete: bool, state: str
) -> None:
    folder = SweepFolder("away://s/d1")
    heard = listener(folder)
    heard.epochs = 2
    train(heard, Trial(1), is_complete=is_complete)
    assert [record["state"] for record in folder.records()] == [state]


def test_end_of_a_sweep_writes_what_is_left(store: type[AwayStore]) -> None:
    folder = SweepFolder("away://s/d1")
    heard = listener(folder)
    store.is_away = True
    train(heard, Trial(1))
    store.is_away = False
    heard.on_experiment_end([])
    assert [record["state"] for record in folder.records()] == ["finished"]


def test_sweep_that_goes_on_knows_the_records_of_before() -> None:
    folder = SweepFolder("away://s/d1")
    train(listener(folder), Trial(1))
    again = listener(folder)
    assert again.count_ended() == 1
    train(again, Trial(1))  # finished: nothing is said of it again
    assert len(folder.records()) == 1


def test_requests_grow_with_the_trials_and_not_with_their_square(store: type[AwayStore]) -> None:
    counts = []
    for trials in (10, 20):
        heard = listener(SweepFolder(f"away://s/{trials}"), trials=trials)
        before = store.requests
        for number in range(trials):
            train(heard, Trial(number))
        counts.append(store.requests - before)
    assert counts[1] == 2 * counts[0]


@pytest.mark.parametrize("ask", [lambda: newest_sweep("away://s"), lambda: SweepFolder("away://s/d").records()])
def test_storage_that_does_not_answer_is_not_taken_for_an_empty_one(ask: Any, store: type[AwayStore]) -> None:
    store.is_away = True
    with pytest.raises(ValueError, match=r"^away://s.* cannot be used \(AWS Error SLOW_DOWN"):
        ask()


def test_folder_that_is_not_there_is_an_empty_one(tmp_path: Path) -> None:
    assert SweepFolder(str(tmp_path / "none")).records() == []
