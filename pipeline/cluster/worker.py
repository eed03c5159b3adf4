"""A worker's link to those who run it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
from ray.train import CheckpointUploadMode

from pipeline.cli.progress import Throttle
from pipeline.cluster.storage import WriteCheckpoint, checkpoints_here, write_checkpoint

STEPS_BETWEEN_LOOKS = 20  # asking for a node's end makes the workers wait for each other


@dataclass(frozen=True)
class Worker:
    """What a worker knows of itself, and its link to who runs it.

    Attributes:
        tell: send the driver an event between two reports, without waiting.
        report: in every worker, at the same time: say how far the training is (metrics with the key step) and, from
            the first worker, keep a checkpoint.
        last_checkpoint: the folder of the newest checkpoint of this run, None where there is none.
        workers_here: of this training on this node.
        wants_pause: asked at every step by every worker: whether to keep a checkpoint now, and whether to stop then.
    """

    rank: int
    num_workers: int
    device: Any
    tell: Callable[[dict[str, Any]], None]
    report: Callable[[dict[str, Any], WriteCheckpoint | None], None]
    last_checkpoint: Callable[[], AbstractContextManager[Path | None]]
    wants_pause: Callable[[], tuple[bool, bool]] = lambda: (False, False)
    workers_here: int = 1


def worker(config: Mapping[str, Any]) -> Worker:
    """In a worker of Ray Train: who am I. Also quiets Ray's own word on every report."""
    from ray.train.v2._internal.execution import context as reports

    logging.getLogger(reports.__file__).setLevel(logging.WARNING)
    context = ray.train.get_context()
    tell = Teller(config["_events"])
    return Worker(
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        workers_here=context.get_local_world_size(),
        device=ray.train.torch.get_device(),
        tell=tell,
        report=lambda metrics, write: report(metrics, write, tell),
        last_checkpoint=lambda: last_checkpoint(tell),
        wants_pause=Pauses(config["_stop"], first=context.get_world_rank() == 0, watches_nodes=config["_has_nodes"]),
    )


class Teller:
    """Sends events to the driver's queue."""

    def __init__(self, events: Any) -> None:
        self.events = events

    def __call__(self, event: dict[str, Any]) -> None:
        """Without waiting for an answer."""
        self.events.actor.put_nowait.remote(event)


def report(metrics: dict[str, Any], write: WriteCheckpoint | None, tell: Callable[[dict[str, Any]], None]) -> None:
    """See Worker.report. A checkpoint that cannot be written is told, and the training goes on without it."""
    if write is None:
        ray.train.report(metrics)
        return
    try:
        checkpoint = write_checkpoint(write, step=metrics["step"])
    except OSError as error:
        told = f"no checkpoint at step {metrics['step']}: {error}; the training goes on, older checkpoints are kept"
        tell({"kind": "warning", "text": told})
        ray.train.report(metrics)
        return
    ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


@contextmanager
def last_checkpoint(tell: Callable[[dict[str, Any]], None]) -> Iterator[Path | None]:
    """See Worker.last_checkpoint. The first worker chooses, so that all go on from the same one."""
    checkpoints = checkpoints_here()
    chosen = None
    if ray.train.get_context().get_world_rank() == 0:
        chosen = checkpoints.newest(lambda text: tell({"kind": "warning", "text": text}))
    chosen = ray.train.collective.broadcast_from_rank_zero(chosen)
    if chosen is None:
        yield None
        return
    with checkpoints.opened(chosen) as folder:
        yield folder


class Pauses:
    """Whether something asks this worker to keep a checkpoint: the person who stops the driver, or a node's end."""

    def __init__(self, stop: Any, *, first: bool, watches_nodes: bool) -> None:
        self.stop, self.first, self.watches_nodes = stop, first, watches_nodes
        self.may_ask = Throttle(seconds=0.5)
        self.answer: Any = None
        self.steps = 0
        self.known: Any = None

    def __call__(self) -> tuple[bool, bool]:
        """Pause, stop."""
        self.steps += 1
        stop = self.first and self.is_stopping()
        # A collective: it must not depend on `stop`, which the first worker alone knows.
        ending = self.is_node_ending()
        return stop or ending, stop

    def is_stopping(self) -> bool:
        """Whether the driver has been told to stop; the answer comes some steps after the question."""
        if self.answer is None and self.may_ask():
            self.answer = self.stop.actor.empty.remote()
        if self.answer is None or not ray.wait([self.answer], timeout=0)[0]:
            return False
        answer, self.answer = self.answer, None
        try:
            return not ray.get(answer)
        except ray.exceptions.RayError:  # the driver is gone: nobody asks for anything
            return False

    def is_node_ending(self) -> bool:
        """Once for every announcement that a node of this training will go; a collective at every 20th step."""
        if not self.watches_nodes or self.steps % STEPS_BETWEEN_LOOKS:
            return False
        info = ray.train.get_preemption_info()
        is_new, self.known = info is not None and info != self.known, info
        return is_new
