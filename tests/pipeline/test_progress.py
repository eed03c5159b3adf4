"""Laws of what a person sees while a run trains."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cli import progress
from pipeline.cli.progress import Progress, Throttle, duration


def row(epoch: int, **more: Any) -> dict[str, Any]:
    losses = {"loss": 1.5, "loss_cls": 1.0, "loss_box": 0.5}
    return {"epoch": epoch, "seconds": 10.0, "images_per_s": 12.34, **losses, **more}


def test_epoch_without_ap_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # 3 epochs of 10 s are left
    Progress(5).epoch([row(1), row(2)])
    assert capsys.readouterr().out == "epoch 2/5  loss 1.5000 (class 1.0000, box 0.5000)  12.3 images/s  30 s left\n"


def test_epoch_with_ap_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(2).epoch([row(1, AP=0.0, AP50=0.125)])
    assert "  AP 0.000  AP50 0.125  " in capsys.readouterr().out


def test_ap_of_a_split_without_truths_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(2).epoch([row(1, AP=None, AP50=None)])
    assert "AP" not in capsys.readouterr().out


def test_time_that_is_left_follows_the_last_three_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    # The first epoch was slow (compilation, cold caches): 4 epochs of (10 + 20 + 30) / 3 s = 80 s are left.
    history = [row(1, seconds=500.0), row(2, seconds=10.0), row(3, seconds=20.0), row(4, seconds=30.0)]
    Progress(8).epoch(history)
    assert capsys.readouterr().out.endswith("80 s left\n")


def test_time_that_is_left_is_a_bound_where_the_run_may_end_early(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress(5, ends_early=lambda history: len(history) == 2)
    shown.epoch([row(1)])
    shown.epoch([row(1), row(2)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("  at most 40 s left") and second.endswith("  0 s left")


def test_log_file_gets_a_line_per_epoch_and_none_per_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("pipeline.cli.progress.time.monotonic", lambda: clock[0])
    shown, history = Progress(2), []
    for epoch in (1, 2):
        for step in range(150):  # a step takes a minute
            clock[0] += 60.0
            shown.step({"epoch": epoch, "step": step, "steps": 150})
        history.append(row(epoch))
        shown.epoch(history)
    printed = capsys.readouterr()
    assert [line.split("  ")[0] for line in printed.out.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert printed.err == ""


def test_terminal_has_a_bar_that_goes_with_its_epoch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    shown = Progress(2)
    shown.step({"epoch": 1, "step": 3, "steps": 10})
    shown.step({"epoch": 1, "step": 9, "steps": 10})
    shown.epoch([row(1)])
    shown.step({"epoch": 2, "step": 1, "steps": 10})
    shown.epoch([row(1), row(2)])
    printed = capsys.readouterr()
    assert "epoch 1/2" in printed.err and "epoch 2/2" in printed.err
    assert [line.split("  ")[0] for line in printed.out.splitlines()] == ["epoch 1/2", "epoch 2/2"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (89 * 60, "89 min"), (90 * 60, "1 h 30 min"), (7500, "2 h 05 min")],
)
def test_duration_is_said_as_a_person_says_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_throttle_says_yes_once_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("pipeline.cli.progress.time.monotonic", lambda: clock[0])
    may = Throttle(1.0)
    answers = []
    for _ in range(6):  # at 100.0, 100.4, 100.8, 101.2 (1.2 s after the yes), 101.6, 102.0
        answers.append(may())
        clock[0] += 0.4
    assert answers == [True, False, False, True, False, False]
