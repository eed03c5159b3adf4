"""Laws of a training that is disturbed, under real Ray: it ends as an undisturbed one, and says what happened."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.fit import checkpoint as checkpoint_room
from pipeline.fit import fit
from retinanet.training import engine
from tests.training import Trained, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
STEPS_OF_EPOCH = 3


def assert_same(disturbed: Trained, undisturbed: Trained) -> None:
    """To the bit."""
    assert disturbed.curve == undisturbed.curve
    for name, weight in disturbed.state["model"].items():
        assert torch.equal(weight, undisturbed.state["model"][name]), name


class Fit:
    """`fit` in a worker that writes down its process, and meets a mishap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def __call__(self, config: dict[str, Any]) -> None:
        (self.folder / str(os.getpid())).touch()
        self.prepare()
        fit(config)

    def prepare(self) -> None:
        """What goes wrong in this process."""

    def pids(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.iterdir())


def test_worker_killed_within_an_epoch_costs_the_steps_since_the_checkpoint(pair: Trained, project: Path) -> None:
    workers = Fit(project / "pids")

    def kill_at_step_five(event: dict[str, Any]) -> None:
        if event["kind"] == "report" and event["step"] == 5 and len(workers.pids()) == 2:
            os.kill(workers.pids()[0], signal.SIGKILL)

    disturbed = train(
        project / "runs", workers=2, train_function=workers, on_event=kill_at_step_five, checkpoint_every=1
    )
    ((epoch, step),) = disturbed.resumed_at
    assert epoch * STEPS_OF_EPOCH + step >= 5
    assert_same(disturbed, pair)


def test_worker_that_hangs_is_taken_for_dead(pair: Trained, project: Path) -> None:
    workers = Fit(project / "pids")

    def stop_in_the_second_epoch(event: dict[str, Any]) -> None:
        if event["kind"] == "report" and event["step"] == STEPS_OF_EPOCH and len(workers.pids()) == 2:
            os.kill(workers.pids()[0], signal.SIGSTOP)

    disturbed = train(
        project / "runs", workers=2, train_function=workers, on_event=stop_in_the_second_epoch, hang_timeout_s=10
    )
    assert len(workers.pids()) == 4
    assert disturbed.resumed_from == [1]
    assert_same(disturbed, pair)


def test_damage_in_the_storage_costs_the_newest_checkpoint_at_most(alone: Trained, project: Path) -> None:
    storage = project / "runs"
    assert alone.storage is not None
    shutil.copytree(alone.storage, storage)
    names = sorted(path.name for path in (storage / "d1").glob("checkpoint_0*"))
    assert len(names) == 2
    newest = storage / "d1" / names[-1] / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    (storage / "d1/checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [')
    again = train(storage, workers=1, checkpoint_every=2)
    assert_same(again, alone)
    assert any("is damaged; it was moved aside" in text for text in again.warnings)
    assert f"{names[-1]} is damaged (state.pt does not match its checksum); using the one before it" in again.warnings
    assert again.resumed_at == [(2, 2)]


class FullDisk(Fit):
    """The storage has no room for the checkpoint of the second epoch."""

    def prepare(self) -> None:
        save, calls = torch.save, []

        def save_or_fail(content: Any, file: Any) -> None:
            calls.append(file)
            if len(calls) == 2:
                Path(file).write_bytes(b"half of it")
                raise OSError(28, "No space left on device")
            save(content, file)

        checkpoint_room.torch = type("Torch", (), {**vars(torch), "save": staticmethod(save_or_fail)})  # type: ignore[assignment]


def test_full_disk_at_a_checkpoint_is_told_and_the_training_goes_on(alone: Trained, project: Path) -> None:
    disturbed = train(project / "runs", workers=1, train_function=FullDisk(project / "pids"))
    assert_same(disturbed, alone)
    (warning,) = disturbed.warnings
    assert warning.startswith("no checkpoint at step 6: [Errno 28] No space left on device; training continues")
    assert len(list((project / "runs/d1").glob("checkpoint_0*"))) == 2  # of steps 3 and 9


class TooManyImages(Fit):
    """Three images at once do not fit the memory."""

    def prepare(self) -> None:
        compute_losses = engine.compute_losses

        def in_little_memory(state: Any, batch: Any, *rest: Any) -> Any:
            if len(batch.image_ids) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return compute_losses(state, batch, *rest)

        engine.compute_losses = in_little_memory


def test_out_of_memory_comes_to_the_driver_at_once(project: Path) -> None:
    workers = TooManyImages(project / "pids")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        train(project / "runs", workers=1, train_function=workers)
    assert len(workers.pids()) == 1
