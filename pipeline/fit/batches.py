"""This worker's share of the training batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from pipeline.cli.progress import Throttle
from pipeline.cluster.worker import Worker
from pipeline.fit.building import build_transforms
from pipeline.fit.config import WorkerConfig
from pipeline.params import Params
from retinanet.data.dataset import TrainingBatches
from retinanet.data.sampling import repeat_factors
from retinanet.data.splits import Split
from retinanet.data.transforms import Transforms
from retinanet.losses.criterion import Criterion
from retinanet.training.loading import AssignedBatch, AssignedSteps, TrainingLoader


class Batches:
    """This worker's share of the training batches, epoch by epoch.

    Attributes:
        of_epoch: the steps of an epoch (0-based).
        steps: their number, the same in every epoch.
    """

    def __init__(self, config: WorkerConfig, split: Split, worker: Worker) -> None:
        self.config, self.worker = config, worker
        transforms = build_transforms(config.params.transforms)
        split = split.tiled(transforms.tiles)  # once, not in every epoch
        threshold = config.params.train.repeat_threshold
        factors = None if threshold is None else repeat_factors(split.records, threshold)
        self.of_epoch = partial(
            share_of_epoch, config.params, split, transforms, factors, worker.rank, worker.num_workers
        )
        self.steps = len(self.of_epoch(0))

    def loader(self, criterion: Criterion) -> Callable[[int, int], Iterator[AssignedBatch]]:
        """The batches of an epoch from a step on, with their targets; read ahead by `loader_processes` of conf/.

        It reports the step to the driver.
        """
        runtime, may_tell = self.config.runtime, Throttle(seconds=1.0)
        read = TrainingLoader(
            AssignedSteps(self.of_epoch, criterion, runtime.images_per_step),
            steps=self.steps,
            processes=runtime.loader_processes,
            device=self.worker.device,
        )

        def rest_of_epoch(epoch: int, first_step: int) -> Iterator[AssignedBatch]:
            for step, batch in enumerate(read(epoch, first_step), start=first_step):
                if self.worker.rank == 0 and may_tell():
                    self.worker.send_event({"kind": "step", "epoch": epoch + 1, "step": step, "steps": self.steps})
                yield batch

        return rest_of_epoch


def share_of_epoch(
    params: Params,
    split: Split,
    transforms: Transforms,
    factors: Tensor | None,
    rank: int,
    num_workers: int,
    epoch: int,
) -> TrainingBatches:
    """One worker's share of an epoch (0-based)."""
    return TrainingBatches(
        split,
        transforms,
        batch_size=params.train.batch_size,
        seed=params.seed,
        epoch=epoch,
        rank=rank,
        num_workers=num_workers,
        factors=factors,
    )
