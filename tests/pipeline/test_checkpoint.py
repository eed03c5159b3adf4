"""Laws of a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.fit.checkpoint import STATE, CheckpointContent, resume
from tests.alone import alone
from tests.tiny_training import build_state


def resume_from(folder: Path) -> CheckpointContent:
    @contextmanager
    def last_checkpoint() -> Iterator[Path]:
        yield folder

    return resume(build_state(), replace(alone(), last_checkpoint=last_checkpoint))


def test_checkpoint_holds_the_progress_without_the_request_to_stop(tmp_path: Path) -> None:
    content, state = CheckpointContent(history=[{"epoch": 1, "AP": 0.5}]), build_state()
    content.progress.epoch, content.progress.losses, content.progress.stop = 1, [[0.5, 0.25]], True
    content.writer(state)(tmp_path)
    found = resume_from(tmp_path)
    assert (found.progress.epoch, found.progress.losses, found.progress.stop) == (1, [[0.5, 0.25]], False)
    assert found.history == content.history


def test_checkpoint_of_another_version_is_refused_with_a_sentence(tmp_path: Path) -> None:
    torch.save({"learner": {}, "course": {}, "history": []}, tmp_path / STATE)
    with pytest.raises(ValueError, match=r"has the keys learner, course, history, expected .*resume: never"):
        resume_from(tmp_path)
