"""A project whose storage is to be cleaned."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.clean import needs
from tests.stored_runs import commit_report, git


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a git repository, whose MLflow knows no run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    git("init", "-q", "-b", "main")
    commit_report(None)
    monkeypatch.setattr(needs, "active_runs", lambda run_ids: set())
    return tmp_path
