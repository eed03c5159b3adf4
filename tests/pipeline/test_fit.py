"""Laws of training under real Ray: the number of workers does not matter, a mistake is one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.fit import fit
from pipeline.runs.identity import BEST
from retinanet.evaluation.working_point import choose_point
from retinanet.inference.detector_file import load_detector
from tests.training import Trained, train, train_in_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def assert_same_training(one: Trained, other: Trained) -> None:
    assert len(one.step_losses) == 9  # 3 epochs of 24 / 8 steps
    assert one.step_losses == pytest.approx(other.step_losses, rel=1e-4)
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert ours["AP50"] > 0
        assert ours["AP"] == pytest.approx(theirs["AP"], abs=1e-3)
        # Rounding orders detections of equal score: on one processor that moved AP50 by 0.0039, at equal weights.
        assert ours["AP50"] == pytest.approx(theirs["AP50"], abs=1e-2)
        assert ours["grad_norm_max"] > ours["grad_norm"] > 0
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    assert one.history[-1]["train_AP"] == pytest.approx(other.history[-1]["train_AP"], abs=1e-2)
    for name, weight in one.state["model"].items():
        assert torch.allclose(weight, other.state["model"][name], rtol=1e-3, atol=1e-4), name


def test_two_workers_train_as_one(alone: Trained, pair: Trained) -> None:
    assert_same_training(alone, pair)


def best_candidates(training: Trained) -> dict[str, Any]:
    """Candidates for the working point in the file of the best detector."""
    assert training.storage is not None
    newest = max((training.storage / "d1").glob(f"checkpoint_*/{BEST}"))
    candidates: dict[str, Any] = load_detector(newest)[1]["working_point"]
    return candidates


def test_two_workers_store_the_working_point_of_one(alone: Trained, pair: Trained) -> None:
    ours, theirs = best_candidates(alone), best_candidates(pair)
    for one, other in zip([ours["overall"], *ours["classes"]], [theirs["overall"], *theirs["classes"]], strict=True):
        assert one["num_truths"] == other["num_truths"]
        point, twin = choose_point(one, "f1"), choose_point(other, "f1")
        assert (point is None) == (twin is None)
        assert point is None or point == pytest.approx(twin, abs=1e-2)
    assert choose_point(ours["overall"], "f1") is not None


def test_training_learns(alone: Trained) -> None:
    losses = [row["loss"] for row in alone.history]
    assert losses[-1] < 0.8 * losses[0]
    assert [row["step"] for row in alone.history] == [3, 6, 9]


def test_accumulation_trains_as_one_step(alone: Trained, project: Path) -> None:
    assert_same_training(alone, train_in_process(project / "run", images_per_step=3))  # 3 + 3 + 2 images


def test_every_report_reaches_the_driver_once(pair: Trained) -> None:
    reports = [event for event in pair.events if event["kind"] == "report"]
    assert [len(event["history"]) for event in reports] == [1, 2, 3]
    assert all("step_losses" not in row for event in reports for row in event["history"])
    assert pair.resumed_from == []


def test_picture_that_cannot_be_read_ends_the_training_with_its_name(project: Path) -> None:
    victim = min((project / "data/prepared/images/train").glob("*.png"))
    victim.write_bytes(victim.read_bytes()[:100])
    tries = project / "tries"
    tries.mkdir()

    def fit_and_count(config: dict[str, Any]) -> None:
        (tries / str(os.getpid())).touch()
        fit(config)

    with pytest.raises(RuntimeError) as caught:
        train(project / "runs", workers=1, train_function=fit_and_count)
    assert len(list(tries.iterdir())) == 2  # a disk or a network may recover, so it is tried once more
    assert str(caught.value).startswith(f"training failed: {victim} cannot be read as an image (")
    assert "\n" not in str(caught.value)
