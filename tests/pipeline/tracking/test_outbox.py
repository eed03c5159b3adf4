"""Laws of a store that is away: it stops nothing, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.tracking import outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_store_that_never_answers_stops_nothing_and_is_told_once(
    tracker: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    monkeypatch.setattr(outbox, "LAST_PAUSES_S", (0.0,))
    start = time.monotonic()
    run = tracker.begin(params={"seed": 1})
    run.log_history(tracker.history(2))
    run.finish()
    assert time.monotonic() - start < 10
    assert run.run_id is None
    told = capsys.readouterr().err
    assert told.count("does not answer at http://127.0.0.1:") == 1
    assert "lacks records that were not sent: parameters; tags kind; history; end of the run" in told
    assert "secret" not in told


def test_absent_store_is_left_alone_for_nine_times_what_a_try_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tries = [100.0], []

    def connect() -> tuple[MlflowClient, str]:
        tries.append(clock[0])
        clock[0] += 2.0  # a try takes 2 s, so the next one may come 9 * 2 = 18 s after its end
        raise ConnectionError("no route")

    monkeypatch.setattr("pipeline.tracking.outbox.time.monotonic", lambda: clock[0])
    box = outbox.Outbox(connect, address="there")
    for _ in range(5):
        box.put("history", lambda client, run_id: None)
        clock[0] += 10.0
    # 100: tried until 102, silent until 120. Asked at 112, 122 (tried until 124, silent until 142), 134, 144.
    assert tries == [100.0, 122.0, 144.0]
    monkeypatch.setattr(outbox, "LAST_PAUSES_S", (0.0,))
    assert box.put_last("end", lambda client, run_id: None) == ["history", "end"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real server, once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    stop_server(server)
    raise TimeoutError((folder / "server.log").read_text())


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """The server and its workers, as a power cut would."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of a server that each test starts and kills itself."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    return port


@pytest.mark.slow
def test_nothing_is_lost_while_the_server_is_away(
    tracker: Any, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.0)
    run = tracker.begin(params={"seed": 1})  # no server yet
    run.log_history(tracker.history(1))
    assert run.run_id is None

    server = start_server(tmp_path, port)
    try:
        run.log_history(tracker.history(2))
        page = f"http://127.0.0.1:{port}/#/experiments/1/runs/{run.run_id}"
        assert run.url == page
        assert tracker.curve(run, "step") == [(0, 10), (1, 20)]
    finally:
        stop_server(server)

    run.log_history(tracker.history(3))
    run.log_history(tracker.history(4))
    run.log_artifact(tracker.png(tmp_path / "sheet.png"))
    run.log_picture("val", tmp_path / "sheet.png", step=3)
    run.set_tags({"late": "yes"})
    again = tracker.begin(run_id=run.run_id)  # a resume that begins without the server

    server = start_server(tmp_path, port)
    try:
        run.log_history(tracker.history(5))
        again.log_history(tracker.history(6))
        again.finish()
        stored = tracker.client().get_run(tracker.id_of(run))
        assert again.run_id == run.run_id
        assert tracker.curve(run, "step") == [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50), (5, 60)]
        assert stored.data.params == {"seed": "1"}
        assert stored.data.tags["late"] == "yes"
        assert {file.path for file in tracker.client().list_artifacts(tracker.id_of(run))} == {"images", "sheet.png"}
        assert stored.info.status == "FINISHED"
        assert len(tracker.client().search_runs([stored.info.experiment_id])) == 1
    finally:
        stop_server(server)
    # before the first start, after the kill, and the resume
    assert capsys.readouterr().err.count("does not answer") == 3
