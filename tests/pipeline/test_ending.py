"""Laws of an early end (train.patience): it follows from the history alone, however many train or resume it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.end import Ending
from pipeline.cluster.archive import archive_run
from pipeline.cluster.worker import Worker
from pipeline.fit import loop
from pipeline.fit.config import WorkerConfig
from pipeline.fit.ending import TRAIN_AP, describe_early_end, ends_early, has_ended
from pipeline.fit.loop import load_splits, train_worker
from pipeline.params import load_params
from pipeline.params.experiment import Train
from pipeline.params.runtime import load_runtime
from pipeline.runs.checksums import write_checksums
from pipeline.runs.identity import BEST, ROWS
from pipeline.storage.outs import write_json
from pipeline.tracking import NoopRun
from pipeline.tracking.description import DESCRIPTION_TAG
from pipeline.train import run as stage
from pipeline.train.run import digest_training
from pipeline.worker_config import worker_config
from retinanet.inference.detector_file import load_detector, save_detector
from retinanet.training.state import TrainingState
from tests.alone import alone
from tests.settings import change
from tests.tiny_training import build_state

APS = st.lists(st.sampled_from([None, 0.0, 0.1, 0.2, 0.3]), min_size=1, max_size=12)


def rows_of(aps: list[float | None]) -> list[dict[str, Any]]:
    """A history; None: an epoch that was not evaluated."""
    return [{"epoch": epoch} | ({} if ap is None else {"AP": ap}) for epoch, ap in enumerate(aps, start=1)]


def section(patience: int | None, *, epochs: int = 20, evaluate_every: int = 1) -> Train:
    return Train(
        batch_size=8,
        epochs=epochs,
        evaluate_every=evaluate_every,
        patience=patience,
        repeat_threshold=None,
        on_nan="stop",
    )


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aps", "patience", "expected"),
    [
        ([0.1], 1, False),  # the first evaluation is the best
        ([0.1, 0.1], 1, True),  # a tie is not better
        ([0.1, 0.2], 1, False),
        ([0.2, 0.1], 2, False),
        ([0.2, 0.1, 0.15], 2, True),  # better than the one before, and not than the best
        ([0.2, 0.1, 0.2], 2, True),
        ([0.2, 0.1, 0.3, 0.1], 2, False),  # the count starts again at a better one
        ([None, 0.2, None, 0.1], 2, False),  # evaluations count, not epochs
        ([None, 0.2, None, 0.1, None, 0.1], 2, True),
        ([None, None, None], 1, False),
        ([0.0, 0.0], 1, True),  # nothing found is an AP too
        ([0.2] * 9, None, False),
    ],
)
def test_training_ends_after_that_many_evaluations_without_a_better_ap(
    aps: list[float | None], patience: int | None, expected: bool
) -> None:
    assert ends_early(rows_of(aps), section(patience)) is expected


def test_evaluation_without_ground_truth_does_not_count() -> None:
    history = [{"epoch": epoch, "AP": None} for epoch in (1, 2, 3)]
    assert not ends_early(history, section(1))


@given(APS, st.integers(1, 4))
def test_rule_is_a_counter_that_each_better_ap_resets(aps: list[float | None], patience: int) -> None:
    best, count = None, 0
    for ap in aps:
        if ap is None:
            continue
        best, count = (ap, 0) if best is None or ap > best else (best, count + 1)
    assert ends_early(rows_of(aps), section(patience)) == (count >= patience)


def test_last_epoch_is_no_early_end() -> None:
    history = rows_of([0.2, 0.1, 0.1])
    assert has_ended(history, section(2, epochs=3)) and not ends_early(history, section(2, epochs=3))
    assert has_ended(history, section(None, epochs=3)) and not has_ended(history, section(None, epochs=4))


def test_early_end_is_one_sentence_with_the_best_epoch() -> None:
    assert describe_early_end(rows_of([0.1, None, 0.3, None, 0.3, None, 0.2]), section(2, epochs=9)) == (
        "ended early after epoch 7 of 9: no better AP on val than that of epoch 3 in 2 evaluations (train.patience)"
    )


# ---- the loop of a worker --------------------------------------------------------------------------------------------


def tiny_state(config: WorkerConfig, worker: Worker, *, total_steps: int) -> TrainingState:
    """In place of the experiment's network one that trains in milliseconds."""
    ramp = {"schedule": "cosine", "warmup_fraction": 0.2, "warmup_start": 0.1}
    return build_state(total_steps=total_steps, ramp=ramp)


class Training:
    """Trainings of the current project in this process, each from the last one's newest checkpoint.

    Args:
        aps: AP of the evaluations, in their order over all trainings.

    Attributes:
        measured: the weights of which AP on training pictures was measured.
    """

    def __init__(self, folder: Path, aps: list[float], patch: pytest.MonkeyPatch) -> None:
        self.folder, self.aps, self.histories = folder, iter(aps), list[list[dict[str, Any]]]()
        self.measured: list[Mapping[str, torch.Tensor]] = []
        patch.setattr(loop, "validate", self.validate)
        patch.setattr(loop, "measure_on_training", self.measure)
        patch.setattr(loop, "build_state", tiny_state)
        runtime = load_runtime().model_copy(update={"checkpoint_every": 2})
        self.config = worker_config(load_params(), runtime, digest="d1", run=str(folder))

    def validate(self, *arguments: object, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        ap = next(self.aps)
        return {"AP": ap}, {"candidates of": ap}

    def measure(self, weights: Mapping[str, torch.Tensor], *arguments: object) -> float:
        self.measured.append(weights)
        return 0.75

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        yield self.folder if self.folder.exists() else None

    def keep(self, metrics: dict[str, Any], write: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        write(self.folder)
        self.histories.append(metrics["history"])

    def run(self, *, stop_after: int | None = None) -> list[int]:
        """Train until it ends, or for so many reports. Returns the finished epochs at each report."""
        self.histories.clear()
        stopped = (lambda: (True, True)) if stop_after == 0 else (lambda: (False, False))
        link = replace(alone(), report=self.keep, last_checkpoint=self.newest, pause_requested=stopped)
        threads = torch.get_num_threads()
        train_worker(self.config, link, *load_splits(self.config.data))
        torch.set_num_threads(threads)
        return [len(history) for history in self.histories]


@pytest.fixture
def long_project(project: Path) -> Path:
    """An experiment of six epochs of three steps."""
    change("params.yaml", train__epochs=6, train__patience=2)
    return project


def test_training_ends_early_with_its_best_detector_and_another_start_trains_nothing(
    long_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(long_project / "run", [0.1, 0.3, 0.3, 0.2, 0.9, 0.9], monkeypatch)
    assert training.run()[-1] == 4
    assert has_ended(training.histories[-1], training.config.params.train)
    weights, description = load_detector(long_project / "run" / BEST)
    assert (description["run"]["epoch"], description["run"]["AP"]) == (2, 0.3)
    assert description["working_point"] == {"candidates of": 0.3}
    assert training.run() == []
    (measured,) = training.measured
    assert all(torch.equal(measured[name], weight) for name, weight in weights.items())


def test_resumed_training_ends_at_the_same_epoch(long_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(long_project / "run", [0.1, 0.3, 0.3, 0.2, 0.9, 0.9], monkeypatch)
    for _ in range(6):  # each start is stopped at its second step
        training.run(stop_after=0)
    assert 0 < len(training.histories[-1]) < 4 and training.measured == []
    assert training.run()[-1] == 4
    assert [row.get(TRAIN_AP) for row in training.histories[-1]] == [None, None, None, 0.75]


def test_schedule_of_the_learning_rate_is_that_of_all_epochs(
    long_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Training(long_project / "ended", [0.3, 0.2, 0.2], monkeypatch)
    ended.run()
    change("params.yaml", train__patience=None)
    whole = Training(long_project / "whole", [0.3, 0.2, 0.2, 0.2, 0.2, 0.2], monkeypatch)
    whole.run()
    facts = [[(row["epoch"], row["lr"], row["loss"]) for row in each.histories[-1]] for each in (ended, whole)]
    assert facts[0] == facts[1][:3] and len(facts[1]) == 6


# ---- the driver ------------------------------------------------------------------------------------------------------


def store_run(project: Path, aps: list[float]) -> str:
    """Store a run of the current project with these evaluations as finished; its name."""
    digest = digest_training(load_params(), load_runtime())
    checkpoint = project / "runs" / digest / "checkpoint_000000009_1"
    best = aps.index(max(aps)) + 1
    save_detector(checkpoint / BEST, {"weight": torch.ones(2)}, {"run": {"digest": digest, "epoch": best}})
    row = {"step": 3, "loss": 1.0, "loss_cls": 0.5, "loss_box": 0.5, "lr": 0.1, "images_per_s": 1.0, "seconds": 1.0}
    write_json(checkpoint / ROWS, [row | each | {"AP50": 0.5} for each in rows_of(list(aps))])
    write_checksums(checkpoint)
    archive_run(str(project / "runs"), digest)
    return digest


def test_run_that_ended_early_has_finished_and_says_so(
    long_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tags: dict[str, str] = {}
    run = NoopRun()
    monkeypatch.setattr(stage, "open_run", lambda **options: nullcontext(run))
    monkeypatch.setattr(run, "set_tags", tags.update)
    digest = store_run(long_project, [0.1, 0.3, 0.3, 0.2])
    ending = Ending()
    stage.run(load_params(), load_runtime(), ending)
    assert ending == Ending("finished", run=digest, AP=0.3, epoch=2, message=ending.message)
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first == (
        "ended early after epoch 4 of 6: no better AP on val than that of epoch 2 in 2 evaluations (train.patience)"
    )
    assert ending.message == first
    assert second.startswith("best epoch 2; ")
    report = json.loads(Path("reports/train.json").read_text())
    assert (report["run"], report["epochs"], report["best"]["epoch"]) == (digest, 4, 2)
    assert len(Path("plots/training.csv").read_text().splitlines()) == 1 + 4
    assert "at epoch 2 of 4" in tags[DESCRIPTION_TAG]


def test_run_that_lost_its_last_checkpoints_is_not_taken_for_one_that_ended_early(
    long_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "open_run", lambda **options: nullcontext(NoopRun()))
    store_run(long_project, [0.1, 0.3, 0.3])
    with pytest.raises(RuntimeError, match="the newest checkpoint holds 3 of 6 epochs"):
        stage.run(load_params(), load_runtime())
