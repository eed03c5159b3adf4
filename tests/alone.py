"""The link of a worker that nobody runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.cluster.worker import Worker


@contextmanager
def no_checkpoint() -> Iterator[Path | None]:
    yield None


def alone() -> Worker:
    """One worker without a checkpoint whose words nobody hears."""
    return Worker(
        rank=0,
        num_workers=1,
        device=torch.device("cpu"),
        send_event=lambda event: None,
        report=lambda metrics, write: None,
        last_checkpoint=no_checkpoint,
    )
