"""This worker's share of the training batches."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Subset

from pipeline.cli.progress import Throttle
from pipeline.cluster.worker import Worker
from pipeline.fit.building import build_transforms
from pipeline.fit.config import WorkerConfig
from retinanet.data.dataset import Batch, TrainingBatches, prefetch
from retinanet.data.splits import Split


class Batches:
    """This worker's share of the training batches, epoch by epoch; reports the step to the driver."""

    def __init__(self, config: WorkerConfig, split: Split, worker: Worker) -> None:
        self.config, self.split, self.worker = config, split, worker
        self.transforms = build_transforms(config.params.transforms)
        self.may_tell = Throttle(seconds=1.0)

    def of_epoch(self, epoch: int) -> TrainingBatches:
        """The steps of an epoch (0-based)."""
        return TrainingBatches(
            self.split,
            self.transforms,
            batch_size=self.config.params.train.batch_size,
            seed=self.config.params.seed,
            epoch=epoch,
            rank=self.worker.rank,
            num_workers=self.worker.num_workers,
        )

    def loader(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on, prefetched by `loader_processes` of conf/."""
        batches = self.of_epoch(epoch)
        processes = self.config.runtime.loader_processes
        rest = Subset(batches, range(first_step, len(batches)))
        loader = prefetch(rest, processes=processes, device=self.worker.device)
        for step, batch in enumerate(loader, start=first_step):
            if self.worker.rank == 0 and self.may_tell():
                self.worker.send_event({"kind": "step", "epoch": epoch + 1, "step": step, "steps": len(batches)})
            yield batch
