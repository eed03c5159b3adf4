"""Laws of loader processes: the same steps as without, by processes that stay and share one copy of the records."""

from __future__ import annotations

import os
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from retinanet.data.dataset import TrainingBatches, split_batch
from retinanet.data.records import Records
from retinanet.data.splits import Split, load_split
from retinanet.losses.criterion import Criterion
from retinanet.training.engine import train_epochs
from retinanet.training.loading import AssignedBatch, AssignedSteps, TrainingLoader, assign_batch, assign_targets
from retinanet.training.progress import EpochReport, TrainingProgress
from tests.small_world import SmallWorld, annotation
from tests.tiny_training import CPU, GRID, TRANSFORMS, batches_from, build_state


def batches_of_epoch(split: Split, epoch: int) -> TrainingBatches:
    return TrainingBatches(split, TRANSFORMS, batch_size=2, seed=1, epoch=epoch)


def loader(split: Split, processes: int, images_per_step: int | None = None) -> TrainingLoader:
    steps = AssignedSteps(partial(batches_of_epoch, split), Criterion(GRID, 3), images_per_step)
    return TrainingLoader(steps, steps=4, processes=processes, device=CPU)


def loader_processes() -> set[int]:
    """Those of this process that a server without threads has forked, as all others are its own children."""
    family = psutil.Process().children(recursive=True)
    own = {process.pid for process in family if process.ppid() == os.getpid()}
    servers = {process.pid for process in family if "forkserver" in " ".join(process.cmdline())} & own
    return {process.pid for process in family if process.ppid() in servers}


def tensors_of(step: AssignedBatch) -> list[torch.Tensor]:
    found = [value for value in step.batch if isinstance(value, torch.Tensor)]
    for assignment in step.assignments:
        assignment.map(lambda values: found.append(values) or values)
    return found


def test_a_step_has_the_targets_of_each_of_its_micro_batches(small_world: SmallWorld) -> None:
    batch, criterion = batches_of_epoch(load_split(small_world.train), 0)[0], Criterion(GRID, 3)
    batch = batch._replace()
    assert len(assign_batch(batch, criterion, None).assignments) == 1
    step = assign_batch(batch, criterion, 1)
    for part, assignment in zip(split_batch(batch, 1), step.assignments, strict=True):
        alone = AssignedBatch(part, [assign_targets(criterion, part)])
        assert all(map(torch.equal, tensors_of(AssignedBatch(part, [assignment])), tensors_of(alone)))


def test_processes_read_the_same_steps_in_every_epoch_and_stay(small_world: SmallWorld) -> None:
    split = load_split(small_world.train)
    here, there = loader(split, 0, images_per_step=1), loader(split, 2, images_per_step=1)
    processes = []
    for epoch, first_step in ((0, 0), (1, 2), (2, 0)):
        steps = list(there(epoch, first_step))
        expected = list(here(epoch, first_step))
        assert len(steps) == 4 - first_step
        for step, other in zip(steps, expected, strict=True):
            assert step.batch.image_ids == other.batch.image_ids
            assert all(map(torch.equal, tensors_of(step), tensors_of(other)))
        processes.append(loader_processes())
    assert processes[0] == processes[1] == processes[2] and len(processes[0]) == 2


def test_training_by_assigned_steps_is_the_same_training(small_world: SmallWorld) -> None:
    split = load_split(small_world.train)
    curves = []
    for read in (loader(split, 0), batches_from(split, batch_size=2)):
        state = build_state()
        reports = train_epochs(state, read, progress=TrainingProgress(), epochs=2)
        curves.append([report.step_losses for report in reports if isinstance(report, EpochReport)])
    assert curves[0] == curves[1] and len(curves[0]) == 2


def many(count: int) -> dict[str, Any]:
    common = {"width": 64, "height": 48}
    images = [{"id": i, "file_name": f"\u00f6/{i}.png", "sha256": f"{i:064x}", **common} for i in range(count)]
    truths = [annotation(i + 1, i // 7, 1, [1.0, 2.0, 8.0, 9.0]) for i in range(7 * count)]
    return {
        "info": {"root": "raw"},
        "images": images,
        "annotations": truths,
        "categories": [{"id": 1, "name": "a"}],
    }


def test_records_go_to_a_process_as_shared_memory_whatever_their_number() -> None:
    sizes = [len(ForkingPickler.dumps(Split(many(count)))) for count in (10, 2000)]
    assert sizes[1] < 1.05 * sizes[0] < 10_000


def test_packed_records_are_those_of_the_file(tmp_path: Path) -> None:
    content = many(3)
    records = Records(content)
    assert [record.path for record in records] == ["\u00f6/0.png", "\u00f6/1.png", "\u00f6/2.png"]
    assert [record.sha256 for record in records] == [f"{i:064x}" for i in range(3)]
    assert records[-1].image_id == 2 and len(records[0:2]) == 2
    assert [len(record.boxes) for record in records] == [7, 7, 7]
    with pytest.raises(IndexError):
        records[3]
