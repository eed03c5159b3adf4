"""What a person sees while a run trains: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60  # within an epoch, where there is no terminal


class Progress:
    """Turns a run's events into a line per epoch, and a sign of life in between.

    Args:
        epochs: of the whole run.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._bar: tqdm[Any] | None = None
        self._last_line = time.monotonic()

    def step(self, event: Mapping[str, Any]) -> None:
        """Word from within an epoch: the bar moves, or a line now and then."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(
                    total=event["steps"], leave=False, unit="step", desc=f"epoch {event['epoch']}/{self.epochs}"
                )
            self._bar.update(event["step"] - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._say(f"epoch {event['epoch']}/{self.epochs} step {event['step']}/{event['steps']}")

    def epoch(self, history: list[Mapping[str, Any]]) -> None:
        """An epoch has ended: its line, with the time that is left at the pace of the last epochs."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        row = history[-1]
        recent = [past["seconds"] for past in history[-3:]]
        left = (self.epochs - row["epoch"]) * sum(recent) / len(recent)
        ap = f"  AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}" if row.get("AP") is not None else ""
        parts = f"(class {row['loss_cls']:.4f}, box {row['loss_box']:.4f})"
        pace = f"{row['images_per_s']:.1f} images/s  {duration(left)} left"
        self._say(f"epoch {row['epoch']}/{self.epochs}  loss {row['loss']:.4f} {parts}{ap}  {pace}")

    def _say(self, line: str) -> None:
        print(line, flush=True)
        self._last_line = time.monotonic()


class Throttle:
    """Says yes at most once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, 0.0

    def __call__(self) -> bool:
        """True where enough time has passed since the last yes."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
