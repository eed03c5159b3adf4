"""One training of a prepared project with a time stamp at every optimiser step, under Ray Train or under torchrun.

    python -m bench.timed_training FOLDER
    python -m torch.distributed.run --standalone --nproc-per-node 2 -m bench.timed_training FOLDER

FOLDER/config.pickle is what pipeline.fit takes, and gets beside it training.json: the losses of every epoch, and the
stamps of the first worker. Both ways run the same pipeline.fit.loop.train_worker; bench/scaling.py compares them.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline.cluster import Resources, start_ray
from pipeline.cluster.storage import WriteCheckpoint
from pipeline.cluster.training import run_trainer
from pipeline.cluster.worker import Worker
from pipeline.fit import fit
from pipeline.fit.config import WorkerConfig
from pipeline.fit.loop import load_splits, train_worker

RESULT, STAMPS = "training.json", "stamps.json"
TIMES = ("seconds", "images_per_s")  # what differs between two trainings that are the same


def main() -> None:
    """Train as this process was started."""
    folder = Path(sys.argv[1])
    config = pickle.loads((folder / "config.pickle").read_bytes())
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    history = train_plainly(config, folder) if under_torchrun else train_on_ray(config, folder)
    if history:
        stamps = json.loads((folder / STAMPS).read_text())
        losses = [{key: value for key, value in row.items() if key not in TIMES} for row in history]
        (folder / RESULT).write_text(json.dumps({"losses": losses, "stamps": stamps}))


def train_on_ray(config: WorkerConfig, folder: Path) -> list[dict[str, Any]]:
    """The history of a training on a Ray of its own."""
    runtime = config.runtime
    resources = Resources.of(runtime)

    def fit_with_stamps(loop_config: dict[str, Any]) -> None:
        with stamping(folder):
            fit(loop_config)

    with start_ray(runtime.address, resources):
        result = run_trainer(
            fit_with_stamps,
            config,
            resources=resources,
            name="timed",
            storage=str(folder / "storage"),
            on_event=lambda event: None,
            lasting=False,  # as a training on a Ray of its own
        )
    history: list[dict[str, Any]] = result.metrics["history"]
    return history


def train_plainly(config: WorkerConfig, folder: Path) -> list[dict[str, Any]]:
    """The history of a training by torchrun's processes, in the first of them; nothing in the others."""
    dist.init_process_group(config.runtime.backend)
    rank, reports = dist.get_rank(), []

    def report(metrics: dict[str, Any], write_checkpoint: WriteCheckpoint | None) -> None:
        reports.append(metrics)
        if write_checkpoint is not None:
            write_checkpoint(Path(tempfile.mkdtemp(dir=folder)))
        dist.barrier()  # as Ray's: an epoch ends for all at once

    worker = Worker(
        rank=rank,
        num_workers=dist.get_world_size(),
        device=own_device(config),
        send_event=lambda event: None,
        report=report,
        last_checkpoint=lambda: nullcontext(None),
    )
    with stamping(folder):
        train_worker(config, worker, *load_splits(config.data))
    dist.destroy_process_group()
    return reports[-1]["history"] if rank == 0 else []


def own_device(config: WorkerConfig) -> torch.device:
    """The CPU, or the GPU of this process among those of its node."""
    if config.runtime.gpus_per_worker == 0:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextmanager
def stamping(folder: Path) -> Iterator[None]:
    """Note every optimiser step of the first worker, without touching the loop: clock and CPU time, s."""
    stamps: list[tuple[float, float]] = []
    handle = register_optimizer_step_post_hook(lambda *_: stamps.append((time.time(), time.process_time())))
    try:
        yield
    finally:
        handle.remove()
    if not dist.is_initialized() or dist.get_rank() == 0:
        (folder / STAMPS).write_text(json.dumps(stamps))


if __name__ == "__main__":
    main()
