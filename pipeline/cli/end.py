"""The end of a training, told to the command in on_end of conf/: how it ended, of which run, with which AP."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from pipeline.cli.command import say
from pipeline.cli.stop import StoppedError
from pipeline.params.end_command import fill, split_command

FINISHED, FAILED, DIVERGED, STOPPED = "finished", "failed", "diverged", "stopped"
TIMEOUT_S = 60.0
LONGEST = 4000  # characters of a value: an argument has a limit, and a message is read by a person
PREFIX = "RETINANET_"


@dataclass
class Ending:
    """What is known about a training at its end; the stage fills it in as it goes.

    Attributes:
        status: finished, failed, diverged or stopped.
        run: name of the run.
        AP: on val, of the best epoch so far.
        epoch: the number of that epoch.
        url: of the run in MLflow.
        message: one sentence.
    """

    status: str = FINISHED
    run: str = ""
    AP: float | None = None
    epoch: int | None = None
    url: str = ""
    message: str = ""

    def reach(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Record the best epoch of a history."""
        evaluated = [row for row in history if row.get("AP") is not None]
        best = max(evaluated, key=lambda row: row["AP"], default=None)  # the first of equal ones, as of the detector
        if best is not None:
            self.AP, self.epoch = best["AP"], best["epoch"]

    def fail(self, error: BaseException) -> None:
        """Record the error that ended the training."""
        self.status = status_of(error)
        self.message = say(error) if isinstance(error, Exception) else "interrupted"

    def values(self) -> dict[str, str]:
        """The values of the placeholders; what is not known is empty."""
        known = {
            "status": self.status,
            "run": self.run,
            "AP": "" if self.AP is None else f"{self.AP:.4f}",
            "epoch": "" if self.epoch is None else str(self.epoch),
            "url": self.url,
            "message": self.message,
        }
        # No argument of a process may hold a zero byte.
        return {name: value.replace("\0", "")[:LONGEST] for name, value in known.items()}


def status_of(error: BaseException) -> str:
    """How a training ended that raised this error."""
    if isinstance(error, StoppedError) or not isinstance(error, Exception):  # Ctrl-C
        return STOPPED
    return DIVERGED if isinstance(error, FloatingPointError) or is_divergence(error) else FAILED


def is_divergence(error: BaseException) -> bool:
    """Whether the error of the driver was caused by a loss that is not finite, in a worker."""
    return isinstance(error.__cause__, FloatingPointError)


@contextmanager
def tell_end(on_end: str | list[str] | None) -> Iterator[Ending]:
    """Run the command in on_end once when the body has ended, however it ended; its failure is a warning."""
    ending = Ending()
    try:
        yield ending
    except BaseException as error:
        ending.fail(error)
        raise
    finally:
        if on_end is not None:
            tell(split_command(on_end), ending.values())


def tell(arguments: list[str], values: dict[str, str]) -> None:
    """Run a command with these values; print a warning if it fails."""
    complaint = run_command(fill(arguments, values), values)
    if complaint is not None:
        with suppress(OSError):  # nobody reads it any more
            print(f"warning: on_end: {arguments[0]} {complaint}", flush=True)


def run_command(arguments: list[str], values: dict[str, str]) -> str | None:
    """Run a command without a shell, and with its values as variables.

    Returns:
        Why it failed, in one line; None if it did not.
    """
    variables = os.environ | {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
    with tempfile.TemporaryFile() as output:  # a pipe would wait for those that the command leaves behind
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"could not be run: {getattr(error, 'strerror', None) or error}"
        try:
            status = process.wait(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"did not end within {TIMEOUT_S:g} s and was killed"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return f"ended with status {status}{last_line(output)}" if status else None


def last_line(output: IO[bytes]) -> str:
    """The last line of a command's output in brackets; empty if it printed nothing."""
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return f" ({lines[-1].strip()[:300]})" if lines else ""
