"""The loop of one worker: train, validate, report, from the last checkpoint to the end."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.cluster.worker import Worker
from pipeline.fit.batches import Batches
from pipeline.fit.building import build_learner
from pipeline.fit.config import InputFiles, WorkerConfig
from pipeline.fit.keeping import Kept, resume, without_steps
from pipeline.fit.mishaps import explain_loss
from pipeline.fit.validation import is_evaluated, validate
from pipeline.runs.inputs import check_pictures, fetch
from retinanet.data.splits import Split, load_split
from retinanet.training.engine import Course, EpochReport, LossNotFiniteError, train_epochs
from retinanet.training.learner import Halt, Learner


def load_splits(data: InputFiles, *, keep_bytes: int = 0) -> tuple[Split, Split]:
    """The training and the validation split; decoded pictures stay in so much memory, those for training first."""
    options = {"root": data.root, "cache_folder": data.cache_folder}
    check_pictures(data.root)
    train = load_split(fetch(data.train), keep_bytes=keep_bytes, **options)
    return train, load_split(fetch(data.val), keep_bytes=keep_bytes - train.kept_bytes, **options)


def tell_memory(worker: Worker, keep_bytes: int, *splits: Split) -> None:
    """Tell the driver how many pictures each worker keeps in memory, where it may keep any."""
    if worker.rank != 0 or keep_bytes == 0:
        return
    kept, pictures = sum(split.num_kept for split in splits), sum(len(split.records) for split in splits)
    budget = f"{keep_bytes / 1e9:.1f} GB budget for each worker"
    worker.tell({"kind": "memory", "text": f"keeping {kept} of {pictures} decoded pictures in memory ({budget})"})


def train_worker(config: WorkerConfig, worker: Worker, train_split: Split, val_split: Split) -> None:
    """One worker's training from the last checkpoint to the end; `config` as of fit.

    Raises:
        FloatingPointError: when a loss is not finite, with the step, the images, and a file that holds the batch.
    """
    torch.set_num_threads(config.place.cpus_per_worker)
    batches = Batches(config, train_split, worker)
    learner = build_learner(config, worker, total_steps=len(batches.of_epoch(0)) * config.params.train.epochs)
    kept = resume(learner, worker)
    if kept.step and worker.rank == 0:
        worker.tell({"kind": "resume", "epoch": kept.course.epoch, "step": len(kept.course.losses)})
    try:
        for news in train_epochs(
            learner,
            batches.loader,
            course=kept.course,
            epochs=config.params.train.epochs,
            checkpoint_every=config.place.checkpoint_every,
            halt=lambda: Halt(*worker.wants_pause()),
        ):
            if isinstance(news, EpochReport):
                end_epoch(news, kept, learner, config, val_split, worker)
            report(kept, learner, worker, is_partial=isinstance(news, Course))
            if kept.course.stop:
                return
    except LossNotFiniteError as error:
        raise FloatingPointError(explain_loss(error, batches, learner, config, worker)) from error


def end_epoch(
    news: EpochReport,
    kept: Kept,
    learner: Learner,
    config: WorkerConfig,
    val_split: Split,
    worker: Worker,
) -> None:
    """Write an epoch into the history, with its AP where it is evaluated, and keep the best detector."""
    row = row_of(news)
    if is_evaluated(news.epoch, config.params.train):
        row |= validate(learner, config, val_split, worker)
    kept.history.append(row)
    if worker.rank == 0 and is_evaluated(news.epoch, config.params.train):
        kept.keep_best(learner, config.description)


def report(kept: Kept, learner: Learner, worker: Worker, *, is_partial: bool) -> None:
    """Tell how far the training is, and keep a checkpoint of it."""
    kept.step = learner.schedule.last_epoch
    metrics = {"step": kept.step, "is_partial": is_partial, "history": [without_steps(row) for row in kept.history]}
    worker.report(metrics, kept.writer(learner) if worker.rank == 0 else None)


def row_of(report: EpochReport) -> dict[str, Any]:
    """A report as one flat row of the history."""
    return {
        "epoch": report.epoch,
        "step": report.step,
        **report.losses,
        "lr": report.lr,
        "images_per_s": report.images_per_s,
        "seconds": report.seconds,
        "step_losses": report.step_losses,
        **({"skipped": report.skipped} if report.skipped else {}),
    }
