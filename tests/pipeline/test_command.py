"""How a command ends: one sentence for what the user can mend, a log for a bug, 130 for Ctrl-C, quiet for `| head`."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import mlflow.exceptions
import pyarrow
import pytest
import yaml

from pipeline.cli.command import run_command
from tests.buckets import variables_of

REPOSITORY = Path(__file__).parents[2]
COMMANDS = {
    "prepare": (),
    "anchor_stats": (),
    "train": (),
    "evaluate": (),
    "sweep": (),
    "export": ("--register", "a"),
    "compare": ("a", "b"),
    "replay": ("a.pt",),
}
# What a command calls first of the libraries that it needs.
ENTRANCES = {name: f"pipeline.{name}.run.run" for name in COMMANDS} | {
    "prepare": "pipeline.prepare.read_splits",
    "sweep": "pipeline.sweep.run.make_plan",
}
CAUSED_BY_USERS = [
    OSError("AWS Error NETWORK_CONNECTION"),
    pyarrow.ArrowNotImplementedError("no such compression"),
    aiohttp.ClientError("bad gateway"),
    botocore.exceptions.NoCredentialsError(),
    mlflow.exceptions.MlflowException("permission denied"),
    ImportError("Install adlfs"),
    MemoryError(),
]
BUGS = [
    TypeError("unsupported operand"),
    KeyError("x"),
    AssertionError(),
    NotImplementedError(),  # test input: a RuntimeError to Python, yet reported as a bug
    ImportError("cannot import name 'a' from 'pipeline.b'", name="pipeline.b"),
]


def fails_with(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


def ends(name: str, work: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of a command, and what it says on stderr."""
    with pytest.raises(SystemExit) as ended:
        run_command(name, work)
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


@pytest.fixture
def inside(prepared: Path, project: Path) -> Path:
    """A project whose data set has the form COCO."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    files = {"annotations": "train.json", "images": "images"}
    params["data"] |= {"format": "coco", "root": "data/raw/mine", "train": files, "val": files, "test": files}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return project


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error", [CAUSED_BY_USERS[0], BUGS[0]], ids=["store", "bug"])
@pytest.mark.usefixtures("inside")
def test_every_command_ends_with_one_sentence_whatever_fails_below(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_CONF", "conf/local.yaml")
    module, _, function = ENTRANCES[name].rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), function, fails_with(error))
    monkeypatch.setattr("pipeline.train.__main__.check_inputs", lambda params: None)
    command = importlib.import_module(f"pipeline.{name}" + ("" if name == "prepare" else ".__main__"))
    status, told = ends(name, lambda: command.main(list(COMMANDS[name])), capsys)
    assert status == 1
    assert told.startswith(f"{name}: ") and told.count("\n") == 1
    assert str(error) in told and "Traceback" not in told
    assert ("this is a bug" in told) == (error in BUGS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_under_the_guard(name: str) -> None:
    path = REPOSITORY / "pipeline" / ("prepare.py" if name == "prepare" else f"{name}/__main__.py")
    assert path.read_text().endswith('\nif __name__ == "__main__":\n    COMMAND.run()\n')


@pytest.mark.parametrize("error", CAUSED_BY_USERS, ids=lambda error: type(error).__name__)
def test_what_a_service_or_the_machine_does_is_no_bug(
    error: Exception, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = ends("train", fails_with(error), capsys)
    assert (status, told.count("\n"), "bug" in told) == (1, 1, False)
    assert told.startswith(f"train: {type(error).__name__}")


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_bug_is_called_one_and_leaves_its_traceback_in_a_log_of_the_project(
    error: Exception, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = ends("train", fails_with(error), capsys)
    (log,) = project.glob("runs/logs/train-*.log")
    assert (status, told.count("\n")) == (1, 1)
    assert told.startswith("train: this is a bug in the pipeline: ") and told.rstrip().endswith(str(log))
    assert "Traceback" not in told
    assert "in fail\n    raise error" in log.read_text()


def test_sentence_of_our_own_needs_no_log(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.storage.outs import demand_file

    status, told = ends("train", lambda: demand_file(Path("a.json")), capsys)
    assert (status, told) == (1, "train: a.json does not exist; run the preceding stage (`dvc repro` does)\n")
    assert not Path("runs").exists()


def test_number_that_a_library_cannot_read_is_found_in_the_log(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ends("train", lambda: int("x"), capsys)[1]
    assert "invalid literal" in told and "the traceback is in" in told


def test_outside_a_project_the_log_is_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    ends("replay", fails_with(KeyError("x")), capsys)
    assert not (tmp_path / "runs").exists()
    assert len(list(tmp_path.glob("temporary/replay-*.log"))) == 1


def test_full_disk_still_leaves_the_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "write_text", fails_with(OSError(28, "No space left on device")))
    status, told = ends("train", fails_with(KeyError("x")), capsys)
    assert (status, told.count("\n")) == (1, 1)
    assert "KeyError: 'x'" in told and "none could be written" in told


@pytest.mark.parametrize("cause", [TypeError("injected"), ConnectionError("injected")], ids=["bug", "network"])
def test_traceback_of_another_process_goes_into_the_log(
    cause: Exception, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account = f"training failed: rank 0:\nTraceback (most recent call last):\n  ..\n{type(cause).__name__}: injected"

    def fail() -> None:
        raise RuntimeError(account) from cause

    status, told = ends("train", fail, capsys)
    assert (status, told.count("\n"), "Traceback" in told) == (1, 1, False)
    assert f"{type(cause).__name__}: injected; " in told
    assert ("this is a bug" in told) == isinstance(cause, TypeError)
    assert "Traceback" in next(project.glob("runs/logs/train-*.log")).read_text()


def test_interrupt_ends_with_130_and_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        assert ends("evaluate", fails_with(KeyboardInterrupt()), capsys) == (130, "evaluate: interrupted\n")
    finally:
        signal.signal(signal.SIGINT, before)


def test_exit_status_of_the_parser_stays(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.replay.__main__ import main

    with pytest.raises(SystemExit) as ended:
        run_command("replay", lambda: main(["--no-such-option"]))
    assert ended.value.code == 2


LONG = """
from pipeline.cli.command import run_command
def main():
    while True:
        print("a line", flush=True)
run_command("status", main)
"""
SLEEP = """
import time
from pipeline.cli.command import run_command
def main():
    print("begun", flush=True)
    time.sleep(60)
run_command("evaluate", main)
"""


def begin(code: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell starts its background jobs with SIGINT ignored, and the tests may be one.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-c", code], env=variables, **options)


def test_reader_that_leaves_ends_a_command_quietly() -> None:
    with begin(LONG) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    with begin(SLEEP) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "evaluate: interrupted\n"
    assert process.returncode == 130


# ---- the real edges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "named"),
    [
        ("https://127.0.0.1:1/mine", "check the address"),
        ("abfs://c@a/mine", "Install adlfs"),
        ("foo://a/mine", "Protocol not known: foo"),
        pytest.param("s3://mine/pictures", "AWS_ENDPOINT_URL", marks=pytest.mark.slow),  # pyarrow tries for 8 s
    ],
)
def test_pictures_that_cannot_be_reached_are_one_sentence(
    root: str, named: str, inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline import prepare

    for key, value in variables_of("http://127.0.0.1:1").items():
        monkeypatch.setenv(key, value)
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["data"]["root"] = root
    Path("params.yaml").write_text(yaml.safe_dump(params))
    status, told = ends("prepare", lambda: prepare.main([]), capsys)
    assert (status, told.count("\n"), "Traceback" in told) == (1, 1, False)
    assert named in told
