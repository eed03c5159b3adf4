"""Progress of a training: a bar of steps in a terminal, a line per epoch in a log; of other work: a line per minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """Prints a line per epoch; a terminal also shows a bar of its steps.

    Args:
        epochs: of the whole run.
        ends_early: whether a run with this history ends before its last epoch; None: it never does.
    """

    def __init__(self, epochs: int, *, ends_early: Callable[[list[Mapping[str, Any]]], bool] | None = None) -> None:
        self.epochs, self.ends_early = epochs, ends_early
        self._bar: tqdm[Any] | None = None

    def step(self, event: Mapping[str, Any]) -> None:
        """Move the bar; nothing without a terminal."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            title = f"epoch {event['epoch']}/{self.epochs}"
            self._bar = tqdm(total=event["steps"], leave=False, unit="step", desc=title)
        self._bar.update(event["step"] - self._bar.n)

    def epoch(self, history: list[Mapping[str, Any]]) -> None:
        """An epoch has ended: its line, with the time that is left at the pace of the last epochs."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        row = history[-1]
        recent = [past["seconds"] for past in history[-3:]]
        left = duration((self.epochs - row["epoch"]) * sum(recent) / len(recent))
        if self.ends_early is not None:
            left = duration(0) if self.ends_early(history) else f"at most {left}"
        val = f"  val_loss {row['val_loss']:.4f}" if row.get("val_loss") is not None else ""
        ap = f"{val}  AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}" if row.get("AP") is not None else ""
        parts = f"(class {row['loss_cls']:.4f}, box {row['loss_box']:.4f})"
        pace = f"{row['images_per_s']:.1f} images/s  {left} left"
        print(f"epoch {row['epoch']}/{self.epochs}  loss {row['loss']:.4f} {parts}{ap}  {pace}", flush=True)


class Count:
    """Counts what is done of a total: a bar in a terminal, a line a minute in a log."""

    def __init__(self, total: int, *, title: str, units: str) -> None:
        self.total, self.title, self.units, self.done = total, title, units, 0
        self._bar = tqdm(total=total, disable=None, unit=f" {units}", desc=title)
        self._may_tell = Throttle(seconds=60.0)
        self._may_tell()  # the first line after a minute

    def __call__(self, done: int = 1) -> None:
        """So many more are done."""
        self.done += done
        self._bar.update(done)
        if self._bar.disable and self._may_tell():
            print(f"{self.title}: {self.done} of {self.total} {self.units}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


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
