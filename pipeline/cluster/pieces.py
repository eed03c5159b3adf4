"""Work in pieces on the workers of the connected Ray: a free worker gets the next piece, a lost piece is repeated.

The workers are actors: each prepares once (it loads a detector) and keeps its GPU. Ray's tasks would need a new process
for every piece on a GPU, and would take the whole cluster instead of the workers of conf/.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, Generic, TypeVar

import ray

from pipeline.cli.stop import StoppedError
from pipeline.cluster.signals import catch_stop_signals
from pipeline.cluster.start import Resources

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Of pieces for each worker: a lost worker costs at most one piece, and at the end the others wait for at most one.
PIECES_PER_WORKER = 8
SECONDS_BETWEEN_CHECKS = 0.2  # for a stop


def do_pieces(
    prepare: Callable[[], Callable[[Piece], Result]], pieces: Sequence[Piece], *, resources: Resources
) -> Iterator[Result]:
    """Do every piece on the workers of the connected Ray and yield the results as they come, in any order.

    At most `resources.most` workers run; the first starts as soon as there is room for it. A worker that dies, or fails
    by anything but a user's mistake, is replaced, and its piece goes to whichever worker is free first.

    Args:
        prepare: runs once in every worker, and returns what does a piece there; both travel by name or pickled.

    Raises:
        StoppedError: when SIGTERM or Ctrl-C has stopped it.
        ValueError: a user's mistake that a worker has found, or no worker starts within start_timeout_s.
        RuntimeError: with the error of the last worker, when more than max_failures have failed.
    """
    with catch_stop_signals() as stop_requested, closing(Workers(prepare, pieces, resources)) as workers:
        while workers.pieces_left:
            if stop_requested.is_set():
                raise StoppedError("stopped before its end; run again to start over")
            yield from workers.collect()


class Workers(Generic[Piece, Result]):
    """Workers of Ray and the pieces that are left; arguments as of do_pieces.

    Attributes:
        pieces_left: pieces without a result.
    """

    def __init__(
        self, prepare: Callable[[], Callable[[Piece], Result]], pieces: Sequence[Piece], resources: Resources
    ) -> None:
        self.prepare, self.resources = prepare, resources
        self.waiting, self.pieces_left = deque(pieces), len(pieces)
        # Answer that is awaited -> worker, and its piece; no piece while the worker starts.
        self.awaited: dict[Any, tuple[Any, list[Piece]]] = {}
        self.idle: list[Any] = []
        self.failures, self.last_alive = 0, time.monotonic()
        for _ in range(min(resources.most, len(pieces))):
            self.add()

    def add(self) -> None:
        """Start one more worker; Ray starts it when there is room."""
        each = self.resources
        worker_class = ray.remote(
            num_cpus=each.cpus_per_worker,
            num_gpus=each.gpus_per_worker,
            accelerator_type=each.accelerator_type,
            label_selector=dict(each.labels) or None,
            runtime_env={"env_vars": each.variables},
        )(PieceWorker)
        worker = worker_class.remote(self.prepare)
        self.awaited[worker.answer.remote()] = worker, []

    def collect(self) -> Iterator[Result]:
        """Give every idle worker a piece, wait a moment for answers, and yield the results among them.

        Raises:
            ValueError, RuntimeError: see do_pieces.
        """
        while self.idle and self.waiting:
            worker, piece = self.idle.pop(), self.waiting.popleft()
            self.awaited[worker.do.remote(piece)] = worker, [piece]
        self.check_start()
        for answer in ray.wait(list(self.awaited), timeout=SECONDS_BETWEEN_CHECKS)[0]:
            worker, piece_of_it = self.awaited.pop(answer)
            try:
                result = ray.get(answer)
            except ray.exceptions.RayError as error:
                self.replace(worker, piece_of_it, error)
                continue
            self.idle.append(worker)
            if piece_of_it:
                self.pieces_left -= 1
                yield result

    def replace(self, worker: Any, piece: Sequence[Piece], error: Exception) -> None:
        """Start another worker for one that has failed; its piece is the next that a worker gets.

        Raises:
            ValueError, RuntimeError: see do_pieces.
        """
        ray.kill(worker)
        cause = getattr(error, "cause", None)
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        self.failures += 1
        if self.failures > self.resources.max_failures:
            raise RuntimeError(f"a worker failed, and max_failures in conf/ allows no more: {error}") from cause
        print(f"warning: a worker failed ({reason_of(error)}); its work is repeated by another", flush=True)
        self.waiting.extendleft(piece)
        self.add()

    def check_start(self) -> None:
        """Raise ValueError when no worker is there and none has started for start_timeout_s."""
        if self.idle or any(piece for _, piece in self.awaited.values()):
            self.last_alive = time.monotonic()
        waited_s, each = self.resources.start_timeout_s, self.resources
        if time.monotonic() - self.last_alive > waited_s:
            gpus = f" and {each.gpus_per_worker:g} GPU" if each.gpus_per_worker else ""
            raise ValueError(
                f"no worker with {each.cpus_per_worker} CPU{gpus} started within {waited_s:g} s: all nodes are busy or "
                "too small; wait for them, or lower cpus_per_worker and gpus_per_worker in conf/"
            )

    def close(self) -> None:
        """End all workers, also those that still start."""
        for worker in [*self.idle, *(worker for worker, _ in self.awaited.values())]:
            with suppress(ray.exceptions.RayError):  # of a head that is gone
                ray.kill(worker)


class PieceWorker(Generic[Piece, Result]):
    """What runs in a worker: it prepares before its first piece, so that an error there is that of a piece."""

    def __init__(self, prepare: Callable[[], Callable[[Piece], Result]]) -> None:
        self.prepare = prepare
        self.work: Callable[[Piece], Result] | None = None

    def answer(self) -> None:
        """Return when the worker has started."""

    def do(self, piece: Piece) -> Result:
        """Do one piece."""
        if self.work is None:
            self.work = self.prepare()
        return self.work(piece)


def reason_of(error: Exception) -> str:
    """Return in one line why a worker failed: its own error, or the first line of Ray's, which fills a paragraph."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
    return text.strip().partition("\n")[0]
