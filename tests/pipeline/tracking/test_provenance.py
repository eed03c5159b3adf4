"""Laws of where a run comes from: it leads back to commit, data and command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking import provenance, provenance_tags
from pipeline.tracking.provenance import git, git_diff

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/train.py").write_text("")
    (tmp_path / "params.yaml").write_text("loss:\n  gamma: 2.0\ndata:\n  format: shapes\n")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return tmp_path


def tags_of(params: dict[str, object]) -> dict[str, str]:
    return provenance_tags(params=params, data_hash="d1", run_digest="r1")


def test_run_of_a_clean_commit_is_reproduced_by_dvc_repro(repository: Path) -> None:
    commit = git("rev-parse", "HEAD")
    tags = tags_of({"loss.gamma": 2.0, "data.format": "shapes"})
    assert tags["reproduce"] == f"git checkout {commit} && dvc repro"
    assert (tags["git.commit"], tags["git.branch"], tags["git.dirty"]) == (commit, "main", "false")
    assert (tags["data_hash"], tags["run_digest"]) == ("d1", "r1")
    assert tags["torch"].startswith("2.")


def test_changed_params_are_in_the_reproducing_command(repository: Path) -> None:
    tags = tags_of({"loss.gamma": 1.5, "data.format": "shapes"})
    assert tags["reproduce"] == f"git checkout {tags['git.commit']} && dvc exp run -S loss.gamma=1.5"
    assert tags["git.dirty"] == "false"  # parameters are told apart from code


def test_changed_code_makes_a_run_dirty(repository: Path) -> None:
    (repository / "pipeline/train.py").write_text("changed = True")
    tags = tags_of({"loss.gamma": 2.0})
    assert tags["git.dirty"] == "true"
    assert "pipeline/train.py" in tags["git.changes"]


def test_diff_of_changed_and_new_code_makes_it_again_from_the_commit(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (repository / "pipeline/train.py").write_text("changed = True\n\n")
    (repository / "pipeline/fit.py").write_text("new = 1\n")
    (repository / "notes.txt").write_text("not code")
    patch = tmp_path_factory.mktemp("patch") / "git.diff"
    patch.write_text(git_diff())
    git("stash", "--include-untracked", "--quiet")
    assert git_diff() == ""
    assert git("apply", str(patch)) is not None
    assert (repository / "pipeline/train.py").read_text() == "changed = True\n\n"
    assert (repository / "pipeline/fit.py").read_text() == "new = 1\n"
    assert not (repository / "notes.txt").exists()


def test_long_diff_is_cut_and_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "pipeline/train.py").write_text("x = 1\n" * 100)
    whole = git_diff()
    monkeypatch.setattr(provenance, "MAX_DIFF", 200)
    assert git_diff() == f"{whole[:200]}\n[cut here: {len(whole) - 200} of {len(whole)} characters are missing]\n"


def test_diff_without_a_repository_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert git_diff() == ""


def test_dvc_experiment_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "bumpy-boar")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    tags = tags_of({})
    assert (tags["dvc.exp_name"], tags["dvc.exp_baseline_rev"]) == ("bumpy-boar", "abc")


def test_without_git_there_are_no_git_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tags = tags_of({"loss.gamma": 2.0})
    assert not [key for key in tags if "git" in key or key == "reproduce"]


def test_diff_and_changes_take_sources_only(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys and data that lie beside the code stay on this machine, tracked or not."""
    outside = tmp_path_factory.mktemp("outside") / "credentials"
    outside.write_text("SECRET")
    (repository / "pipeline/tracked.pem").write_text("before")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "second")
    (repository / "retinanet/new").mkdir(parents=True)
    for name in ("pipeline/.env", "pipeline/tracked.pem", "pipeline/key.pem", "retinanet/new/notes.txt", "x.py"):
        (repository / name).write_text("SECRET\n")
    assert git_diff() == ""
    assert tags_of({})["git.dirty"] == "false"
    (repository / "pipeline/link.py").symlink_to(outside)  # git takes the link, not what it leads to
    for name in ("pipeline/new.py", "pipeline/conf.yaml", "retinanet/new/part.py"):
        (repository / name).write_text("source = 1\n")
    assert git_diff().count("+source = 1") == 3
    assert {line.split()[-1] for line in tags_of({})["git.changes"].splitlines()} == {
        *("pipeline/conf.yaml", "pipeline/link.py", "pipeline/new.py", "retinanet/new/part.py"),
    }
    assert "SECRET" not in git_diff()


@pytest.mark.parametrize("name", ["pipeline/train.py", "pipeline/new.py"])
def test_file_too_large_for_source_is_named_and_the_rest_still_applies(
    name: str, repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / name).write_text("x" * 1001)
    (repository / "pipeline/small.py").write_text("small = 1\n")
    monkeypatch.setattr(provenance, "MAX_FILE", 1000)
    diff = git_diff()
    assert "xxx" not in diff
    assert diff.endswith(f"[left out: {name}, 1001 bytes]\n")
    patch = tmp_path_factory.mktemp("patch") / "git.diff"
    patch.write_text(diff)
    (repository / "pipeline/small.py").unlink()
    assert git("apply", str(patch)) is not None
    assert (repository / "pipeline/small.py").read_text() == "small = 1\n"


def test_diff_of_a_project_below_the_root_applies_there(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = repository / "cells"
    (project / "pipeline").mkdir(parents=True)
    (project / "params.yaml").write_text("seed: 1\n")
    (project / "pipeline/caf\u00e9.py").write_text("old = 1\n")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "second")
    monkeypatch.chdir(project)
    (project / "pipeline/caf\u00e9.py").write_text("changed = 1\n")
    (project / "pipeline/new.py").write_text("new = 1\n")
    patch = tmp_path_factory.mktemp("patch") / "git.diff"
    patch.write_text(git_diff())
    git("stash", "--include-untracked", "--quiet")
    assert git("apply", str(patch)) is not None
    assert (project / "pipeline/caf\u00e9.py").read_text() == "changed = 1\n"
    assert (project / "pipeline/new.py").read_text() == "new = 1\n"
