"""A stage or a command as a process of its own, with its lines as they come."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


class Stage:
    """`python -m pipeline.<arguments>` in a project."""

    def __init__(self, project: Path, environment: dict[str, str], *arguments: str) -> None:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(self.command(*arguments), cwd=project, env=environment, **pipes)
        self.lines: list[str] = []
        self._coming: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def command(self, *arguments: str) -> list[str]:
        module, *rest = arguments or ("train",)
        return [sys.executable, "-m", f"pipeline.{module}", *rest]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._coming.put(line.rstrip())
        self._coming.put(None)

    def wait_for(self, beginning: str) -> str:
        """The next line that begins so."""
        while (line := self._coming.get(timeout=500)) is not None:
            self.lines.append(line)
            if line.startswith(beginning):
                return line
        raise AssertionError("\n".join(self.lines))

    def wait(self) -> int:
        """The exit status, after the last line."""
        while (line := self._coming.get(timeout=500)) is not None:
            self.lines.append(line)
        return self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def ends_well(running: Stage) -> list[str]:
    """All its lines."""
    try:
        assert running.wait() == 0, "\n".join(running.lines)
    finally:
        running.end()
    return running.lines


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """Kill a process with all that it has started, at once, as a machine that goes down does."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
