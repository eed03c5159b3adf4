"""The loop of one worker: train, validate, report, from the last checkpoint to the end."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.cluster.worker import Worker
from pipeline.fit.batches import Batches
from pipeline.fit.building import build_state
from pipeline.fit.checkpoint import CheckpointContent, resume, without_steps
from pipeline.fit.config import InputFiles, WorkerConfig
from pipeline.fit.ending import TRAIN_AP, has_ended
from pipeline.fit.not_finite import explain_loss
from pipeline.fit.validation import is_evaluated, measure_on_training, validate
from pipeline.runs.inputs import check_pictures, fetch
from retinanet.data.splits import Split, load_split
from retinanet.training.determinism import set_deterministic
from retinanet.training.engine import train_epochs
from retinanet.training.progress import CheckpointRequest, EpochReport, LossNotFiniteError, TrainingProgress
from retinanet.training.state import TrainingState


def load_splits(data: InputFiles, *, keep_bytes: int = 0) -> tuple[Split, Split]:
    """The training and the validation split, with a cache of decoded pictures of that size; training comes first."""
    check_pictures(data.root)
    train = load_split(fetch(data.train), root=data.root, cache_folder=data.cache_folder, keep_bytes=keep_bytes)
    rest = keep_bytes - train.kept_bytes
    return train, load_split(fetch(data.val), root=data.root, cache_folder=data.cache_folder, keep_bytes=rest)


def report_memory(worker: Worker, keep_bytes: int, *splits: Split) -> None:
    """Tell the driver how many decoded pictures each worker caches, if it may cache any."""
    if worker.rank != 0 or keep_bytes == 0:
        return
    kept, pictures = sum(split.num_kept for split in splits), sum(len(split.records) for split in splits)
    budget = f"{keep_bytes / 1e9:.1f} GB budget per worker"
    worker.send_event({"kind": "memory", "text": f"caching {kept} of {pictures} decoded images in memory ({budget})"})


def train_worker(config: WorkerConfig, worker: Worker, train_split: Split, val_split: Split) -> None:
    """Train in one worker, from the last checkpoint to the end; every worker has the same history, so all end together.

    Raises:
        FloatingPointError: when a loss is not finite, with the step, the images, and a file that holds the batch.
    """
    torch.set_num_threads(config.runtime.cpus_per_worker)
    set_deterministic(config.runtime.deterministic, one_size=config.params.transforms.canvas is not None)
    batches, epochs = Batches(config, train_split, worker), config.params.train.epochs
    state = build_state(config, worker, total_steps=batches.steps * epochs)
    checkpoint = resume(state, worker)
    progress = checkpoint.progress
    if checkpoint.step and worker.rank == 0:
        worker.send_event({"kind": "resume", "epoch": progress.epoch, "step": len(progress.losses)})
    if has_ended(checkpoint.history, config.params.train):
        return
    try:
        for event in train_epochs(
            state,
            batches.loader(state.criterion),
            progress=progress,
            epochs=epochs,
            checkpoint_every=config.runtime.checkpoint_every,
            request=lambda: CheckpointRequest(*worker.pause_requested()),
        ):
            if isinstance(event, EpochReport):
                end_epoch(event, checkpoint, state, config, val_split, worker)
            report(checkpoint, state, worker, is_partial=isinstance(event, TrainingProgress))
            if progress.stop or has_ended(checkpoint.history, config.params.train):
                return
    except LossNotFiniteError as error:
        raise FloatingPointError(explain_loss(error, batches, state, config, worker)) from error


def end_epoch(
    epoch: EpochReport,
    checkpoint: CheckpointContent,
    state: TrainingState,
    config: WorkerConfig,
    val_split: Split,
    worker: Worker,
) -> None:
    """Append an epoch to the history, evaluate it where that is due, and keep the best detector.

    At the end of a training that is no trial of a sweep, the last row also gets AP of the best detector on training
    pictures.
    """
    row = row_of(epoch)
    candidates = None
    if is_evaluated(epoch.epoch, config.params.train):
        metrics, candidates = validate(state, config, val_split, worker, epoch=epoch.epoch)
        row |= metrics
    checkpoint.history.append(row)
    if worker.rank == 0 and is_evaluated(epoch.epoch, config.params.train):
        checkpoint.keep_best(state, {**config.description, "working_point": candidates})
    if has_ended(checkpoint.history, config.params.train) and not config.is_trial:
        weights = None if checkpoint.best is None else checkpoint.best[0]
        row[TRAIN_AP] = measure_on_training(weights, config, worker)


def report(checkpoint: CheckpointContent, state: TrainingState, worker: Worker, *, is_partial: bool) -> None:
    """Report the progress with a checkpoint."""
    checkpoint.step = state.schedule.last_epoch
    history = [without_steps(row) for row in checkpoint.history]
    metrics = {"step": checkpoint.step, "is_partial": is_partial, "history": history}
    worker.report(metrics, checkpoint.writer(state) if worker.rank == 0 else None)


def row_of(report: EpochReport) -> dict[str, Any]:
    """A report as one flat row of the history."""
    return {
        "epoch": report.epoch,
        "step": report.step,
        **report.losses,
        "lr": report.lr,
        "grad_norm": report.grad_norm,
        "grad_norm_max": report.grad_norm_max,
        "images_per_s": report.images_per_s,
        "seconds": report.seconds,
        "step_losses": report.step_losses,
        **({"skipped": report.skipped} if report.skipped else {}),
    }
