"""Laws of on_end: it runs once, tells how a training ended, and no value becomes code or another argument."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.cli import end
from pipeline.cli.end import Ending, run_command, status_of, tell_end
from pipeline.cli.progress import Progress
from pipeline.cli.stop import StoppedError
from pipeline.params.end_command import NAMES, check_command, fill, split_command
from pipeline.params.runtime import load_runtime
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.identity import RunFolder
from pipeline.sweep import __main__ as sweep
from pipeline.sweep import run as sweep_room
from pipeline.tracking import NoopRun
from pipeline.train import __main__ as command
from pipeline.train import run as stage
from pipeline.train.run import Listener
from tests.end_command import telling, told_in
from tests.settings import change

NASTY = "\"; rm -rf /; $(touch pwned) `touch pwned` ' && {AP} {status} %s \\ \n--option\n*"


# ---- the words of the command ----------------------------------------------------------------------------------------


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@given(st.dictionaries(st.sampled_from(NAMES), TEXT, min_size=len(NAMES)), st.lists(st.sampled_from(NAMES)))
def test_value_replaces_its_placeholder_and_nothing_else(values: dict[str, str], names: list[str]) -> None:
    arguments = ["tell", *(f'{{"text": "{{{name}}}"}}' for name in names)]
    assert fill(arguments, values) == ["tell", *(f'{{"text": "{values[name]}"}}' for name in names)]


@given(st.lists(TEXT.filter(bool), min_size=1))
def test_string_is_split_as_a_shell_would_and_a_list_is_not(words: list[str]) -> None:
    assert split_command(shlex.join(words)) == words
    assert split_command(words) == words


@settings(max_examples=15, deadline=None)
@given(TEXT, TEXT)
@example(NASTY, NASTY)
@example("-rf", "$(reboot)")
def test_command_gets_every_value_as_a_part_of_one_argument_and_as_a_variable(run: str, message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "told"
        values = Ending(run=run, message=message).values()
        on_end = telling(file, "{message}", "run={run}.", "{x: {status}}")
        for written in (on_end, shlex.join(on_end)):
            assert run_command(fill(split_command(written), values), values) is None
        first, second = told_in(file)
        assert first == second
        assert first["arguments"] == [message, f"run={run}.", "{x: finished}"]
        assert first["variables"] == {f"RETINANET_{name.upper()}": value for name, value in values.items()}
        assert os.listdir(folder) == ["told"]


# ---- what conf/ may say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_end", "complaint"),
    [
        (["tell", "{stauts}"], "on_end has the unknown placeholder {stauts}; did you mean {status}?"),
        (
            "tell {zzz}",
            "on_end has the unknown placeholder {zzz}; valid here: {status}, {run}, {AP}, {epoch}, {url}, {mes",
        ),
        ("tell 'open", 'on_end is "tell \'open": no closing quotation; close it, or give a list of arguments'),
        ("", "on_end is empty; give a command and its arguments, or null"),
        ("  ", "on_end is empty"),
        ([], "on_end is empty"),
        ([""], "on_end is empty"),
        (["{message}"], "on_end starts with '{message}'; the name of the command must not hold a placeholder"),
        (["sh", "-c", "echo {message}"], "on_end has a placeholder in the script of a shell"),
        ("env A=1 /bin/bash -ec 'echo {run}'", "on_end has a placeholder in the script of a shell"),
        ([1], "on_end.0 is 1"),
        (3, "on_end is 3"),
    ],
)
def test_wrong_command_is_refused_before_any_work(on_end: object, complaint: str, project: Path) -> None:
    change("conf/local.yaml", on_end=on_end)
    with pytest.raises(ValueError, match=f"^{re.escape(f'conf/local.yaml: {complaint}')}") as caught:
        command.main([])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "on_end",
    [
        None,
        "tell",
        ["curl", "--json", '{"text": "{status}: {run} AP {AP}"}', "https://example.org/hook"],
        ["sh", "-c", 'echo "$RETINANET_MESSAGE" | mail -s training me', "{status}"],
        ["curl", "-c", "{run}"],
    ],
)
def test_command_that_can_be_run_is_taken_as_it_is(on_end: Any, project: Path) -> None:
    change("conf/local.yaml", on_end=on_end)
    assert load_runtime().on_end == on_end
    assert on_end is None or list(check_command(on_end)) == []


# ---- the end of a training -------------------------------------------------------------------------------------------


def diverged() -> RuntimeError:
    error = RuntimeError("training failed: loss is not finite at step 3")
    error.__cause__ = FloatingPointError("loss is not finite at step 3")
    return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoppedError("stopped with a checkpoint; run again to resume"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (diverged(), "diverged"),
        (FloatingPointError("loss is not finite"), "diverged"),
        (RuntimeError("training failed"), "failed"),
        (KeyError("bug"), "failed"),
    ],
)
def test_status_follows_from_the_error(error: BaseException, status: str) -> None:
    assert status_of(error) == status


@pytest.fixture
def told(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a project whose on_end tells the end."""
    change("conf/local.yaml", on_end=telling(project / "told", "{status}: {run} AP {AP} at {epoch}, {message}"))
    return project / "told"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (None, "finished: d1 AP 0.2500 at 3, best epoch 3 of 4"),
        (
            StoppedError("stopped before it"),
            "stopped: d1 AP  at , StoppedError: stopped before it",
        ),
        (diverged(), "diverged: d1 AP  at , RuntimeError: training failed: loss is not finite at step 3"),
        (KeyError("bug"), "failed: d1 AP  at , KeyError: 'bug'"),
        (KeyboardInterrupt(), "stopped: d1 AP  at , interrupted"),
    ],
)
def test_command_train_tells_its_end_once_and_ends_as_without_it(
    error: BaseException | None, sentence: str, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(params: object, runtime: object, ending: Ending) -> None:
        assert not told.exists()
        ending.run = "d1"
        if error is not None:
            raise error
        ending.AP, ending.epoch, ending.message = 0.25, 3, "best epoch 3 of 4"

    monkeypatch.setattr(stage, "run", run)
    if error is None:
        command.main([])
    else:
        with pytest.raises(type(error)) as caught:
            command.main([])
        assert caught.value is error
    assert [each["arguments"] for each in told_in(told)] == [[sentence]]


def test_sweep_tells_its_end_once_and_its_other_commands_tell_nothing(
    told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_sweep(plan: object, *, conf: object, apply: object, ending: Ending) -> None:
        ending.run, ending.status, ending.AP = "s1", "stopped", 0.5

    monkeypatch.setenv("PIPELINE_CONF", "conf/local.yaml")
    monkeypatch.setattr(sweep_room, "make_plan", lambda *arguments: None)
    monkeypatch.setattr(sweep_room, "run_sweep", run_sweep)
    sweep.main([])
    with pytest.raises(ValueError, match="no sweep"):
        sweep.main(["status"])
    assert [each["arguments"] for each in told_in(told)] == [["stopped: s1 AP 0.5000 at , "]]


def test_best_epoch_so_far_is_told_of_a_training_that_was_stopped(tmp_path: Path) -> None:
    ending = Ending()
    images = SampleImages(tmp_path / "val.json", root="", score_threshold=0.3)
    listener = Listener(NoopRun(), RunFolder(str(tmp_path), "d1"), Progress(9), images, ending=ending)  # type: ignore[arg-type]
    row = {"loss": 1.0, "loss_cls": 0.5, "loss_box": 0.5, "seconds": 1.0, "images_per_s": 1.0}
    listener({"kind": "report", "is_partial": False, "history": [row | {"epoch": 1}]})
    assert (ending.AP, ending.epoch) == (None, None)
    rows = [row | {"epoch": epoch, "AP": ap, "AP50": ap} for epoch, ap in ((1, 0.1), (2, 0.3), (3, 0.3))]
    listener({"kind": "report", "is_partial": False, "history": rows})
    assert (ending.AP, ending.epoch) == (0.3, 2)


def test_address_of_a_webhook_is_not_recorded_with_the_run(told: Path) -> None:
    runtime = load_runtime()
    assert runtime.model_dump().keys() - runtime.recorded().keys() == {"on_end"}


def test_mistake_that_is_found_before_ray_starts_is_told_too(told: Path) -> None:
    Path("anchors.json").unlink()
    with pytest.raises(ValueError, match=r"anchors\.json does not exist"):
        command.main([])
    (only,) = told_in(told)
    assert only["variables"]["RETINANET_STATUS"] == "failed"
    assert only["variables"]["RETINANET_MESSAGE"].startswith("anchors.json does not exist")


@pytest.mark.parametrize(
    ("on_end", "warning"),
    [
        (["no-such-command", "{status}"], "no-such-command could not be run: No such file or directory"),
        (
            [sys.executable, "-c", "print('x', flush=True); raise SystemExit('no route')"],
            f"{sys.executable} ended with status 1 (no route)",
        ),
        ([sys.executable, "-c", "raise SystemExit(3)"], f"{sys.executable} ended with status 3"),
    ],
)
def test_failure_of_the_command_is_one_line(on_end: list[str], warning: str, capfd: pytest.CaptureFixture[str]) -> None:
    with tell_end(on_end):
        pass
    assert capfd.readouterr() == (f"warning: on_end: {warning}\n", "")
    with pytest.raises(StoppedError), tell_end(on_end):
        raise StoppedError("stopped")
    assert capfd.readouterr() == (f"warning: on_end: {warning}\n", "")


def test_command_that_does_not_end_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(end, "TIMEOUT_S", 0.5)
    begun = time.monotonic()
    with tell_end(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"]):
        pass
    assert time.monotonic() - begun < 20
    assert capsys.readouterr().out == "warning: on_end: sh did not end within 0.5 s and was killed\n"
    child = (tmp_path / "child").read_text().strip()
    state = subprocess.run(["ps", "-o", "state=", "-p", child], capture_output=True, text=True, check=False).stdout
    assert state.strip() in ("", "Z")


def test_value_that_no_argument_can_hold_is_cut() -> None:
    values = Ending(message="a\0b" * 100_000).values()
    assert values["message"].startswith("abab") and len(values["message"]) == end.LONGEST
