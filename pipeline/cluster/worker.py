"""A worker's link to those who run it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

WriteCheckpoint = Callable[[Path], None]
"""Fills a folder."""


@dataclass(frozen=True)
class Worker:
    """What a worker knows of itself, and its link to who runs it.

    Attributes:
        tell: send the driver an event between two reports, without waiting.
        report: in every worker, at the same time: end an epoch with metrics and, from the first worker, a checkpoint.
        last_checkpoint: the folder of the newest checkpoint of this run, None where there is none.
    """

    rank: int
    num_workers: int
    device: Any
    tell: Callable[[dict[str, Any]], None]
    report: Callable[[dict[str, Any], WriteCheckpoint | None], None]
    last_checkpoint: Callable[[], AbstractContextManager[Path | None]]


def worker(config: Mapping[str, Any]) -> Worker:
    """In a worker of Ray Train: who am I. Also quiets Ray's own word on every report."""
    from ray.train.v2._internal.execution import context as reports

    logging.getLogger(reports.__file__).setLevel(logging.WARNING)
    context = ray.train.get_context()
    return Worker(
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        device=ray.train.torch.get_device(),
        tell=lambda event: config["_events"].actor.put_nowait.remote(event),
        report=report,
        last_checkpoint=last_checkpoint,
    )


def report(metrics: dict[str, Any], write_checkpoint: WriteCheckpoint | None) -> None:
    """See Worker.report."""
    if write_checkpoint is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


@contextmanager
def last_checkpoint() -> Iterator[Path | None]:
    """See Worker.last_checkpoint."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)
