"""A stage stops when the DVC that started it ends; any other command outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
# Stands for DVC: starts a command in its own session, and waits.
DVC = "import subprocess, sys; subprocess.run(sys.argv[1:])"
STAGE = f"""
import os, signal, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from pipeline.cli.command import run_command
def main():
    def stop(number, frame):
        open("stopped", "w").close()
        raise SystemExit
    signal.signal(signal.SIGTERM, stop)
    with open("writing", "w") as file:
        file.write(str(os.getpid()))
    os.rename("writing", "begun")
    time.sleep(60)
run_command("train", main)
"""
COMMAND = [sys.executable, "-c", STAGE]
# The shell waits for the command, as fish does.
WAITING_SHELL = ["sh", "-c", '"$@"; true', "sh", *COMMAND]


class Run:
    """A stage and what has started it."""

    def __init__(self, folder: Path, command: list[str], *, is_stage: bool = True, session: bool = False) -> None:
        self.folder = folder
        variables = {key: text for key, text in os.environ.items() if key != "DVC_STAGE"}
        variables |= {"DVC_STAGE": "train"} if is_stage else {}
        started = command if session else [sys.executable, "-c", DVC, *command]
        self.starter = subprocess.Popen(
            started, cwd=folder, env=variables, start_new_session=session, stderr=subprocess.DEVNULL
        )

    def has(self, name: str, *, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not (self.folder / name).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return (self.folder / name).exists()

    def end(self) -> None:
        if (self.folder / "begun").exists():
            with suppress(psutil.Error):
                psutil.Process(int((self.folder / "begun").read_text())).kill()
        self.starter.kill()
        self.starter.wait()


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    begun: list[Run] = []
    yield begun
    for run in begun:
        run.end()


@pytest.mark.parametrize("command", [COMMAND, WAITING_SHELL], ids=["direct", "shell"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stage_stops_when_dvc_ends(command: list[str], number: signal.Signals, tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path, command))
    assert run.has("begun", within_s=60)
    assert not run.has("stopped", within_s=1.5)
    run.starter.send_signal(number)
    assert run.has("stopped", within_s=20)


def test_stage_whose_dvc_has_gone_before_it_looked_stops(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path, COMMAND, session=True))  # its parent is of another session, as init is
    status = run.starter.wait(timeout=30)
    assert (tmp_path / "stopped").exists() or status == -signal.SIGTERM  # before or after it installs its handler


def test_command_that_dvc_has_not_started_outlives_its_parent(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(run := Run(tmp_path, COMMAND, is_stage=False))
    assert run.has("begun", within_s=60)
    run.starter.kill()
    assert not run.has("stopped", within_s=2)
    assert psutil.pid_exists(int((tmp_path / "begun").read_text()))
