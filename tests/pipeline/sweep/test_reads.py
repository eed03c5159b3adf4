"""What a sweep reads: the training split once, each record at most once, however many settings and trials it has."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.params import load_params
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.sweep import feasibility as room
from pipeline.sweep.feasibility import FeasibilityCheck
from pipeline.sweep.listener import Listener
from pipeline.sweep.records import configure
from pipeline.tracking import NoopRun
from tests.small_world import SmallWorld

PARAMS = load_params(Path(__file__).parents[3] / "params.yaml")


def test_training_split_is_read_once_for_all_settings(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(room, "read_json", lambda path: (reads.append(path), json.loads(path.read_text()))[1])
    assert PARAMS.sweep is not None
    feasibility = FeasibilityCheck(PARAMS, PARAMS.sweep, small_world.train)
    shares = {
        feasibility.covered(room.params_with(PARAMS, {"anchors.base_scale": scale})) for scale in (2.0, 4.0, 64.0)
    }
    assert len(shares) > 1
    assert reads == [small_world.train]


class CountingFolder(SweepFolder):
    """Counts what is read of each name."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()

    def read(self, name: str) -> bytes | None:
        self.reads[name] += 1
        return super().read(name)


class Trial:
    """What the listener asks of Ray's trial."""

    def __init__(self, number: int) -> None:
        self.config = configure({"loss.gamma": float(number)}, seed=1, number=number)

    def __str__(self) -> str:
        key: str = self.config["key"]
        return key


def listener_of(folder: SweepFolder, tmp_path: Path, trials: int) -> Listener:
    sample_images: Any = SimpleNamespace(keep=lambda found, epoch: None, log=lambda run, epoch: None)
    assert SampleImages.log  # what it stands for
    return Listener(
        folder, trials=trials, epochs=2, open_run=lambda configuration, run_id: NoopRun(), sample_images=sample_images
    )  # type: ignore[arg-type, return-value]


def run_trials(listener: Listener, trials: list[Trial]) -> None:
    for trial in trials:
        listener.on_trial_start(0, [], trial)
        for epoch in (1, 2):
            row = {"epoch": epoch, "loss": 1.0, "AP": 0.5, "images_per_s": 1.0}
            listener.on_trial_result(0, [], trial, {"history": [row], "score": 0.5})
        listener.on_trial_complete(0, [], trial)


def test_each_record_is_read_at_most_once_and_the_records_are_whole(tmp_path: Path) -> None:
    folder = CountingFolder(str(tmp_path))
    listener = listener_of(folder, tmp_path, trials=30)
    listener.setup()
    trials = [Trial(number) for number in range(30)]
    run_trials(listener, trials[:20])
    assert sum(folder.reads.values()) == 0  # what it has written itself it knows
    assert [record["state"] for record in folder.records()] == ["finished"] * 20
    folder.reads.clear()

    # A sweep that was killed goes on: Ray's snapshot of the listener is older than the records.
    resumed = pickle.loads(pickle.dumps({**listener.__getstate__(), "open_run": None, "sample_images": None}))
    assert not resumed["records"]
    again = listener_of(folder, tmp_path, trials=30)
    again.setup()
    run_trials(again, trials)
    assert len(folder.reads) == 20 and set(folder.reads.values()) == {1}
    assert again.count_ended() == 30
