"""A stop that loses nothing: on SIGTERM or Ctrl-C the workers finish their step and keep a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


@contextmanager
def hearing_signals() -> Iterator[threading.Event]:
    """An event that is set by SIGTERM or Ctrl-C; a Ctrl-C after that interrupts at once.

    A second SIGTERM changes nothing: systemd and Slurm send one to every process, and so does the loss of the parent.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals come to the main thread only
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_asked(work: Callable[[], Result], asked: threading.Event, stop: Callable[[], object]) -> Result:
    """The result of `work`, which runs in a thread of its own; `stop` is called once when the event is set."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  # it is raised again where the result is read
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    stopping = False
    while not wait([outcome], timeout=0.2).done:
        if asked.is_set() and not stopping:
            stopping = True
            stop()
    return outcome.result()
