"""A training worker's link to Ray Train and to the driver."""

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
from pipeline.cluster.node_load import send_load
from pipeline.cluster.storage import Checkpoints, WriteCheckpoint

STEPS_BETWEEN_CHECKS = 20  # the preemption check is a barrier over all workers


@dataclass(frozen=True)
class Worker:
    """Rank and device of a worker, and its link to whoever runs it: Ray Train, Ray Tune or a test.

    Attributes:
        send_event: sends the driver an event, without waiting.
        report: called by every worker at the same step: reports metrics (with the key step) and, on rank 0, writes a
            checkpoint.
        last_checkpoint: yields the folder of this run's newest checkpoint, None if there is none.
        workers_here: workers of this training on this node.
        pause_requested: called by every worker at every step: whether to write a checkpoint now, and whether
            to stop then.
    """

    rank: int
    num_workers: int
    device: Any
    send_event: Callable[[dict[str, Any]], None]
    report: Callable[[dict[str, Any], WriteCheckpoint | None], None]
    last_checkpoint: Callable[[], AbstractContextManager[Path | None]]
    pause_requested: Callable[[], tuple[bool, bool]] = lambda: (False, False)
    workers_here: int = 1


def worker(config: Mapping[str, Any]) -> Worker:
    """Return the link of the current Ray Train worker; silences Ray's log line for every report.

    The first worker of each node sends the node's load, except on the driver's, which MLflow samples there.
    """
    from ray.train.v2._internal.execution import context as reports

    logging.getLogger(reports.__file__).setLevel(logging.WARNING)
    context = ray.train.get_context()
    send_event, checkpoints = EventSender(config["_events"]), config["_checkpoints"]
    here = ray.get_runtime_context().get_node_id()
    if context.get_local_rank() == 0 and here != config["_driver_node"]:
        send_load(send_event, node=name_of(here))
    return Worker(
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        workers_here=context.get_local_world_size(),
        device=ray.train.torch.get_device(),
        send_event=send_event,
        report=lambda metrics, write: report(metrics, write, send_event, checkpoints),
        last_checkpoint=lambda: last_checkpoint(send_event, checkpoints),
        pause_requested=PauseRequests(
            config["_stop"], first=context.get_world_rank() == 0, watches_nodes=config["_has_nodes"]
        ),
    )


def name_of(node_id: str) -> str:
    """Return host and address of a node, as in the tag ray.nodes."""
    (node,) = (node for node in ray.nodes() if node["NodeID"] == node_id)
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


class EventSender:
    """Sends events to the driver's queue."""

    def __init__(self, events: Any) -> None:
        self.events = events

    def __call__(self, event: dict[str, Any]) -> None:
        """Send an event, without waiting for an answer."""
        self.events.actor.put_nowait.remote(event)


def report(
    metrics: dict[str, Any],
    write: WriteCheckpoint | None,
    send_event: Callable[[dict[str, Any]], None],
    checkpoints: Checkpoints,
) -> None:
    """See Worker.report. Warn about a checkpoint that cannot be written, and continue training without it."""
    if write is None:
        ray.train.report(metrics)
        return
    try:
        checkpoint = checkpoints.write(write, step=metrics["step"])
    except OSError as error:
        text = f"no checkpoint at step {metrics['step']}: {error}; training continues, older checkpoints are kept"
        send_event({"kind": "warning", "text": text})
        ray.train.report(metrics)
        return
    ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


@contextmanager
def last_checkpoint(send_event: Callable[[dict[str, Any]], None], checkpoints: Checkpoints) -> Iterator[Path | None]:
    """See Worker.last_checkpoint. Rank 0 selects it, so that all workers resume from the same one."""
    chosen = None
    if ray.train.get_context().get_world_rank() == 0:
        chosen = checkpoints.newest(lambda text: send_event({"kind": "warning", "text": text}))
    chosen = ray.train.collective.broadcast_from_rank_zero(chosen)
    if chosen is None:
        yield None
        return
    with checkpoints.opened(chosen) as folder:
        yield folder


class PauseRequests:
    """Requests for a checkpoint: a stop of the driver, or the announced end of a node."""

    def __init__(self, stop: Any, *, first: bool, watches_nodes: bool) -> None:
        self.stop, self.first, self.watches_nodes = stop, first, watches_nodes
        self.may_ask = Throttle(seconds=0.5)
        self.answer: Any = None
        self.steps = 0
        self.known: Any = None

    def __call__(self) -> tuple[bool, bool]:
        """Return (pause, stop)."""
        self.steps += 1
        stop = self.first and self.is_stopping()
        # A collective: it must not depend on `stop`, which the first worker alone knows.
        ending = self.is_node_ending()
        return stop or ending, stop

    def is_stopping(self) -> bool:
        """Return whether the driver is stopping; the answer arrives some steps after the request."""
        if self.answer is None and self.may_ask():
            self.answer = self.stop.actor.empty.remote()
        if self.answer is None or not ray.wait([self.answer], timeout=0)[0]:
            return False
        answer, self.answer = self.answer, None
        try:
            return not ray.get(answer)
        except ray.exceptions.RayError:  # the driver is gone: there is no request
            return False

    def is_node_ending(self) -> bool:
        """Return True once for each announced end of a node; a collective at every 20th step."""
        if not self.watches_nodes or self.steps % STEPS_BETWEEN_CHECKS:
            return False
        info = ray.train.get_preemption_info()
        is_new, self.known = info is not None and info != self.known, info
        return is_new
