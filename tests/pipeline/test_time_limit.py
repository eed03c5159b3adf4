"""Laws of max_hours: it stops a training as a signal does, counted from the start of the command, and says so."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cli.stop import StoppedError
from pipeline.cluster import Resources, signals, training
from pipeline.cluster.signals import catch_stop_signals, run_until_stopped, seconds_running
from pipeline.cluster.training import train_on_ray
from pipeline.sweep.tuning import interrupted_by_sigterm

AGE = 7200.0  # s since the start of the command


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that started two hours ago."""
    monkeypatch.setattr(signals, "seconds_running", lambda: AGE)


def hours(seconds: float) -> float:
    """A limit that is reached in so many seconds."""
    return (AGE + seconds) / 3600


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_command_has_run_since_its_process_started() -> None:
    before = time.time() - psutil.Process().create_time()
    assert before <= seconds_running() <= before + 5


@pytest.mark.usefixtures("old")
def test_limit_asks_for_a_stop_when_it_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    limit = hours(0.3)
    with catch_stop_signals(limit) as stop_requested:
        begun, stops = time.monotonic(), list[float]()
        over = threading.Event()

        def stop() -> None:
            stops.append(time.monotonic() - begun)
            over.set()

        assert run_until_stopped(lambda: over.wait(timeout=20), stop_requested, stop)
    assert len(stops) == 1 and stops[0] > 0.25
    assert stop_requested.reason == f"max_hours {limit:g} of conf/ is reached"
    assert capsys.readouterr().out == f"max_hours {limit:g} of conf/ is reached; stopping with a checkpoint\n"


@pytest.mark.usefixtures("old")
def test_limit_that_passed_before_the_training_began_stops_it_at_once() -> None:
    with catch_stop_signals(0.5) as stop_requested:
        assert stop_requested.wait(timeout=20)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("limit", [None, 10.0, 1e300])
def test_limit_that_is_not_reached_asks_for_nothing(limit: float | None) -> None:
    with catch_stop_signals(limit) as stop_requested:
        assert len(timers()) == (limit is not None)
        assert not stop_requested.wait(timeout=0.05)
    assert timers() == []


@pytest.mark.usefixtures("old")
def test_signal_before_the_limit_is_what_stopped_it() -> None:
    with catch_stop_signals(hours(0.2)) as stop_requested:
        signal.raise_signal(signal.SIGTERM)
        assert stop_requested.is_set()
        for timer in timers():
            timer.join(timeout=20)
        assert stop_requested.reason == ""


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])  # ignored: a shell's background job
def test_sweep_is_interrupted_when_its_limit_is_reached(handler: Any) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm(hours(0.1)):
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert timers() == []
    with interrupted_by_sigterm(None):
        assert timers() == []


# ---- the training ----------------------------------------------------------------------------------------------------


class Kept:
    """In place of the checkpoints of a run, of which there is one."""

    @classmethod
    def of(cls, storage: str, name: str) -> Kept:
        return cls()

    def newest(self, warn: object) -> str:
        return "newest"

    def opened(self, found: str) -> nullcontext[Path]:
        return nullcontext(Path(found))


def train_until_stopped(fit: object, config: object, *, stop_requested: threading.Event, **options: Any) -> None:
    """In place of Ray Train: a training that ends only when it is asked to stop."""
    over = threading.Event()
    assert run_until_stopped(lambda: over.wait(timeout=20), stop_requested, over.set)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (hours(0.1), f"stopped with a checkpoint; run again to resume (max_hours {hours(0.1):g} of conf/ is reached)"),
        (None, "stopped with a checkpoint; run again to resume"),  # by a signal
    ],
)
def test_training_that_reached_its_limit_is_stopped_as_by_a_signal_and_names_the_limit(
    limit: float | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Checkpoints", Kept)
    monkeypatch.setattr(training, "run_trainer", train_until_stopped)
    send: Callable[[], object] = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(training, "describe_cluster", lambda: {} if limit else send() or {})
    with pytest.raises(StoppedError) as caught:
        train_on_ray(
            lambda config: None,
            None,
            resources=Resources(1, 1, 0, "gloo", 0, 60.0),
            name="d1",
            storage="runs",
            on_event=lambda event: None,
            export=lambda folder: pytest.fail("exported"),
            max_hours=limit,
        )
    assert str(caught.value) == sentence
