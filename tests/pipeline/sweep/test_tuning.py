"""Ray Tune with every scheduler, on trials that only pretend to train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.cluster import Resources
from pipeline.params.sweep import Sweep
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.sweep.listener import Listener
from pipeline.sweep.sampler import Sampler
from pipeline.sweep.tuning import build_scheduler, tune
from tests.pipeline.sweep.test_sampler import PARAMS

pytestmark = pytest.mark.slow

EPOCHS = 4
GOOD, BAD = 0.9, 0.1  # an alpha is its own AP here


class SilentRun:
    """A run of the tracker that keeps nothing."""

    run_id = None

    def log_history(self, history: object) -> None: ...
    def set_tags(self, tags: object) -> None: ...
    def finish(self, status: str = "FINISHED") -> None: ...


def open_silently(configuration: Mapping[str, Any], run_id: str | None) -> SilentRun:
    return SilentRun()


def refuse_nothing(settings: Mapping[str, Any]) -> str | None:
    return None


@pytest.fixture
def joined_ray(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def run_sweep(folder: Path, *, alphas: list[float], **changes: Any) -> dict[int, dict[str, Any]]:
    """Tune over some alphas; the records by the number of the setting."""

    def pretend(configuration: dict[str, Any], base: Mapping[str, Any]) -> None:
        import json
        import tempfile
        from pathlib import Path as At

        import ray.tune

        last = ray.tune.get_checkpoint()
        history = [] if last is None else json.loads((At(last.path) / "history").read_text())
        for epoch in range(len(history) + 1, EPOCHS + 1):
            ap = configuration["loss.alpha"]
            history.append({"epoch": epoch, "loss": 1.0, "AP": ap, "images_per_s": 1.0})
            score = max(row["AP"] for row in history)
            with tempfile.TemporaryDirectory() as kept:
                (At(kept) / "history").write_text(json.dumps(history))
                ray.tune.report(
                    {"score": score, "epoch": epoch, "history": history},
                    checkpoint=ray.tune.Checkpoint.from_directory(kept),
                )

    assert PARAMS.sweep is not None
    shown = {"points": [{"loss.alpha": alpha} for alpha in alphas], "space": {"loss.alpha": {"uniform": [0.0, 1.0]}}}
    trials = {"search": "random", "trials": len(alphas), "seeds": 1, "reduction": 2, "constraints": []}
    sweep = Sweep.model_validate({**PARAMS.sweep.model_dump(), **shown, **trials, **changes})
    kept = SweepFolder(str(folder))
    tune(
        pretend,
        {},
        folder=kept,
        sampler=Sampler(sweep, base={"loss.alpha": 0.5}, seed=1, epochs=EPOCHS, refuse=refuse_nothing),
        scheduler=build_scheduler(sweep, epochs=EPOCHS, every=1),
        listener=Listener(
            kept,
            trials=len(alphas),
            epochs=EPOCHS,
            open_run=open_silently,  # type: ignore[arg-type]
            sample_images=SampleImages(folder, root="", score_threshold=0.5),
        ),
        resources=Resources(1, 1, 0, "gloo", 0, 60.0),
        trials_at_once=2,
        trials=len(alphas),
    )
    return {record["number"]: record for record in kept.records()}


@pytest.mark.parametrize("scheduler", ["none", "asha", "hyperband", "median", "pbt"])
def test_every_scheduler_brings_a_sweep_to_its_end(scheduler: str, tmp_path: Path, joined_ray: None) -> None:
    records = run_sweep(tmp_path, alphas=[GOOD, 0.5, BAD], scheduler=scheduler)
    assert sorted(records) == [0, 1, 2]
    assert records[0]["state"] == "finished"
    assert {record["state"] for record in records.values()} <= {"finished", "stopped"}


def test_a_bad_trial_takes_over_a_better_one_and_keeps_its_own_name(
    tmp_path: Path, joined_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run_sweep(tmp_path, alphas=[GOOD, BAD], scheduler="pbt")
    assert [record["state"] for record in records.values()] == ["finished"] * 2
    assert records[0]["key"] != records[1]["key"]
    assert "trial 1 seed 1 continues from a better trial" in capsys.readouterr().out
    # the curve that it took over is now its own
    assert records[1]["history"][0]["AP"] == GOOD
    assert [row["epoch"] for row in records[1]["history"]] == list(range(1, EPOCHS + 1))
