"""Graceful stop: on SIGTERM or Ctrl-C the workers finish their step and write a checkpoint."""

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
def catch_stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or Ctrl-C sets; a second Ctrl-C interrupts at once.

    A second SIGTERM has no effect: systemd and Slurm signal every process, and so does the death of the parent.
    """
    stop_requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop_requested  # only the main thread receives signals
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop_requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop_requested.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop_requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_stopped(
    work: Callable[[], Result], stop_requested: threading.Event, stop: Callable[[], object]
) -> Result:
    """Run `work` in a thread and return its result; call `stop` once when the event is set."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised again by outcome.result()
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    stopping = False
    while not wait([outcome], timeout=0.2).done:
        if stop_requested.is_set() and not stopping:
            stopping = True
            stop()
    return outcome.result()
