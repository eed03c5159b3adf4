"""Graceful stop: on SIGTERM, Ctrl-C or after max_hours the workers finish their step and write a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


class StopRequest(threading.Event):
    """Set by a signal or a limit of time.

    Attributes:
        reason: the limit, for a message; empty for a signal.
    """

    reason = ""

    def time_out(self, reason: str) -> None:
        """Request a stop, unless there is a request already, and print why."""
        if self.is_set():
            return
        self.reason = reason
        self.set()
        with suppress(OSError):  # nobody reads it any more
            print(f"{reason}; stopping with a checkpoint", flush=True)


@contextmanager
def catch_stop_signals(max_hours: float | None = None) -> Iterator[StopRequest]:
    """Yield an event that SIGTERM or Ctrl-C sets, and the limit; a second Ctrl-C interrupts at once.

    A second SIGTERM has no effect: systemd and Slurm signal every process, and so does the death of the parent.

    Args:
        max_hours: since the start of the command; None: no limit.
    """
    stop_requested = StopRequest()
    with receive_signals(stop_requested), call_after(max_hours, stop_requested.time_out):
        yield stop_requested


@contextmanager
def call_after(max_hours: float | None, call: Callable[[str], object]) -> Iterator[None]:
    """Call a function with the limit in words, in another thread, if the body runs when the limit is reached.

    Args:
        max_hours: since the start of the command; None: never.
    """
    if max_hours is None:
        yield
        return
    left = max(max_hours * 3600 - seconds_running(), 0.0)
    timer = threading.Timer(min(left, threading.TIMEOUT_MAX), call, [f"max_hours {max_hours:g} of conf/ is reached"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def seconds_running() -> float:
    """Seconds since this process, the command, has started."""
    import psutil  # 20 ms, and only here

    return time.time() - float(psutil.Process().create_time())


@contextmanager
def receive_signals(stop_requested: threading.Event) -> Iterator[None]:
    """Set the event on SIGTERM or Ctrl-C; see catch_stop_signals."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop_requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop_requested.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
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
