"""What fails in bench/survive.py: nodes of a cluster, a disk and an MLflow server, all of them real."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from bench.disturbed import EPOCHS, Project, environment
from tests.nodes import running_node, temporary_folder
from tests.servers import PATIENCE_S, end, free_port, wait_for

Process = subprocess.Popen[bytes]


class Nodes:
    """A cluster of nodes of 1 CPU on this machine, which come and go."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[Process] = []
        self.add("--head", f"--port={self.address.partition(':')[2]}", "--include-dashboard=false")

    def add(self, *head: str) -> None:
        """One more, once it has joined."""
        number = len(self.nodes) + 1
        options = [*(head or [f"--address={self.address}"]), f"--node-ip-address=127.0.0.{number}"]
        temporary, home = Path(self.stack.enter_context(temporary_folder())), self.folder / f"node{number}"
        variables = {"GLOO_SOCKET_IFNAME": "lo"}
        node = self.stack.enter_context(running_node([], options, temporary, home, variables))
        self.nodes.append(node)
        deadline = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in (log := (home / "ray.log").read_text()):
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a node does not start:\n{log}")
            time.sleep(0.1)

    def of_a_worker(self, project: Project) -> Process:
        """A node, not the head, on which a worker trains."""
        workers = set(project.stamps())
        return next(node for node in self.nodes[1:] if node.poll() is None and workers & set(family(node)))


def family(process: Process) -> list[int]:
    """Numbers of a process and of all that it has started."""
    first = psutil.Process(process.pid)
    return [first.pid, *(child.pid for child in first.children(recursive=True))]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk in memory that holds five checkpoints."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=900m", "survive", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("a disk can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(file: Path) -> None:
    """Write until there is no room."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(2**16)):
            pass


@contextmanager
def running_server(home: Path, port: int) -> Iterator[Process]:
    """An MLflow server."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]
    variables = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = home / "server.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=home, env=environment() | variables, stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_for(port, process, log)
        yield process
    finally:
        end(process)


def check_server(database: Path) -> None:
    """One run that has ended, with every epoch once."""
    connection = sqlite3.connect(database)
    status = connection.execute("select status from runs").fetchall()
    epochs = connection.execute("select step from metrics where key = 'loss' order by step").fetchall()
    connection.close()
    if (status, epochs) != ([("FINISHED",)], [(epoch,) for epoch in range(1, EPOCHS + 1)]):
        raise RuntimeError(f"MLflow has runs {status} with epochs {epochs}")
