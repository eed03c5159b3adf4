"""Laws of a run's identity: one digest per experiment, one process per run, small texts beside the checkpoints."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs import identity
from pipeline.runs.identity import RunFolder, digest_file, digest_run, lock_run

REPOSITORY = Path(__file__).parents[2]

HOLD = """
import sys, time
from pathlib import Path
from pipeline.runs.identity import lock_run
with lock_run(Path(sys.argv[1]), "d1"):
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


# ---- the digest ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("train.json", "val.json")]
    for path in paths:
        path.write_bytes(path.name.encode() * 100)
    return paths


VALUES = {"seed": 1, "loss": {"gamma": 2.0, "alpha": None}, "precision": "fp32"}


def test_same_values_and_files_have_the_same_digest_wherever_they_lie(files: list[Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copies = [elsewhere / path.name for path in files]
    for path, copy in zip(files, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    other_order = {"precision": "fp32", "loss": {"alpha": None, "gamma": 2.0}, "seed": 1}
    assert digest_run(VALUES, files) == digest_run(other_order, copies)
    assert len(digest_run(VALUES, files)) == 16


@given(place=st.integers(0, 899), number=st.sampled_from([0, 1]))
def test_any_changed_byte_of_a_file_makes_another_digest(
    place: int, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("data") / "a.json"
    content = bytearray(b"x" * 900)
    path.write_bytes(content)
    before = digest_run(VALUES, [path])
    content[place] ^= 1 << number
    path.write_bytes(content)
    assert digest_run(VALUES, [path]) != before


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 2, "loss": {"gamma": 2.0, "alpha": None}, "precision": "fp32"},
        {"seed": 1, "loss": {"gamma": 2.5, "alpha": None}, "precision": "fp32"},
        {"seed": 1, "loss": {"gamma": 2.0, "alpha": 0.25}, "precision": "fp32"},
        {"seed": 1, "loss": {"gamma": 2.0, "alpha": None}, "precision": "bf16"},
    ],
)
def test_any_changed_value_makes_another_digest(values: dict[str, object], files: list[Path]) -> None:
    assert digest_run(values, files) != digest_run(VALUES, files)


def test_files_that_change_places_make_another_digest(files: list[Path]) -> None:
    assert digest_run(VALUES, files) != digest_run(VALUES, files[::-1])
    assert digest_run(VALUES, files) != digest_run(VALUES, files[:1])


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert digest_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"anchors\.json does not exist; run the preceding stage"):
        digest_run(VALUES, [tmp_path / "anchors.json"])


# ---- the run's folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["local", "local/", "memory"])
def test_text_that_was_written_is_read_back(place: str, tmp_path: Path) -> None:
    storage = "memory://runs/a" if place == "memory" else f"{tmp_path}/{place}"
    folder = RunFolder(storage, "d1")
    assert folder.read("mlflow_run_id") is None
    folder.write("mlflow_run_id", "0123")
    assert RunFolder(storage, "d1").read("mlflow_run_id") == "0123"
    folder.write("mlflow_run_id", "4567")
    assert folder.read("mlflow_run_id") == "4567"
    assert RunFolder(storage, "d2").read("mlflow_run_id") is None
    if place == "local":
        assert (tmp_path / "local/d1/mlflow_run_id").read_text() == "4567"


# ---- the lock --------------------------------------------------------------------------------------------------------


class Holder:
    """A process that holds the lock of run d1 until it is told to leave."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def says(self) -> str:
        return self.lines.get(timeout=60)

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def test_second_process_waits_and_says_for_whom(tmp_path: Path) -> None:
    first, second = Holder(tmp_path), None
    try:
        assert first.says() == "held"
        second = Holder(tmp_path)
        assert second.says() == f"run d1 is being trained by process {first.process.pid}; waiting for it to end"
        time.sleep(0.3)
        assert second.lines.empty()
        first.leave()
        assert first.says() == "left"
        assert second.says() == "held"
    finally:
        first.end()
        if second is not None:
            second.end()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    try:
        assert holder.says() == "held"
        holder.process.send_signal(signal.SIGKILL)
        holder.process.wait()
        with lock_run(tmp_path, "d1"):
            assert (tmp_path / "d1.pid").read_text() == f"{os.getpid()}\n"
    finally:
        holder.end()


def test_waiting_process_repeats_itself_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(identity, "SECONDS_BETWEEN_WORDS", 0.1)
    holder = Holder(tmp_path)
    try:
        assert holder.says() == "held"
        threading.Timer(0.5, holder.leave).start()
        with lock_run(tmp_path, "d1"):
            pass
    finally:
        holder.end()
    assert capsys.readouterr().out.count(f"by process {holder.process.pid}; waiting") >= 2


def test_other_runs_do_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock_run(tmp_path, "d1"), lock_run(tmp_path, "d2"):
        pass
    with lock_run(tmp_path, "d1"):  # free again
        pass
    assert capsys.readouterr().out == ""
