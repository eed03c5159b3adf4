"""A step whose loss is not finite: its batch and weights are stored, so that it can be replayed anywhere."""

from __future__ import annotations

import io

import fsspec
import torch

from pipeline.cluster.worker import Worker
from pipeline.fit.batches import Batches
from pipeline.fit.config import WorkerConfig
from pipeline.storage.stores import complaint, retry
from retinanet.training.progress import LossNotFiniteError
from retinanet.training.state import TrainingState


def explain_loss(
    error: LossNotFiniteError, batches: Batches, state: TrainingState, config: WorkerConfig, worker: Worker
) -> str:
    """Store the batch and the current weights in a file beside the run; a sentence with step, losses, images and file.

    The file's name holds the run's digest, in a sweep the trial's key, because the trials share a folder. On a GPU
    losses are checked every few steps, so the weights may be those of some steps later.
    """
    batch = batches.of_epoch(error.epoch)[error.step]
    step = f"epoch{error.epoch + 1}_step{error.step + 1}_worker{worker.rank}"
    url = f"{config.data.run}/not_finite_{config.description['run']['digest']}_{step}.pt"
    content = {
        "batch": batch._asdict(),
        "weights": {key: value.cpu() for key, value in state.network.state_dict().items()},
        "description": config.description,
        "params": config.params.model_dump(exclude={"sweep"}),
        "precision": config.runtime.precision,
        "error": str(error),
    }
    memory = io.BytesIO()
    torch.save(content, memory)
    advice = "lower optim.lr, set optim.clip_grad_norm, or let train.on_nan skip such steps"
    sentence = f"{error}, images {batch.image_ids}; {advice}"
    try:
        retry(lambda: write(url, memory.getvalue()))
    except OSError as failure:  # the loss matters more than the storage
        return f"{sentence}. The batch could not be stored: {complaint(url, failure)}"
    return f"{sentence}. Replay it with: python -m pipeline.replay {url}"


def write(url: str, content: bytes) -> None:
    """Write a file, and create its folder."""
    with fsspec.open(url, "wb", auto_mkdir=True) as file:
        file.write(content)
