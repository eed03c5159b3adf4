"""Find what needs a run: files of the working tree, git revisions, DVC experiments, MLflow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pipeline.params.paths import outer_root, project_root
from pipeline.tracking.lookup import active_runs
from retinanet.inference.detector_file import load_detector

REPORT = "reports/train.json"
MODEL = "models/model.pt"
STASHES = ("refs/stash", "refs/exps/stash", "refs/exps/celery/stash", "refs/exps/celery/failed")
"""Stashes of git and of DVC's queue, whose older entries are in the reflog only."""

Needs = dict[str, list[str]]
"""Name of a run -> what needs it."""


def find_needs() -> Needs:
    """Return the runs that the project, its revisions and its experiments need; print a note without git.

    Raises:
        ValueError: naming models/model.pt, when it cannot be read: what it needs is not known then.
    """
    root, needs = outer_root(project_root()), Needs()
    for folder in (root, *sorted(root.glob(".dvc/tmp/exps/*")), *sorted(root.glob(".dvc/tmp/exps/*/*"))):
        note(needs, text_of(folder / REPORT), f"{folder / REPORT}" if folder != root else REPORT)
        if (folder / MODEL).is_file():
            _, description = load_detector(folder / MODEL)
            add(needs, description["run"]["digest"], MODEL if folder == root else f"{folder / MODEL}")
    names = revisions(root)
    if names is None:
        print("no git repository here: only the files of this folder show which runs are needed", flush=True)
    for name in names or ():
        note(needs, git(root, "show", f"{name}:./{REPORT}"), shorten(name))
    return needs


def revisions(root: Path) -> list[str] | None:
    """Return every reference and stash of the repository; None without a repository."""
    found = git(root, "for-each-ref", "--format=%(refname)")
    if found is None or git(root, "rev-parse", "--git-dir") is None:
        return None
    stashed = [git(root, "log", "--walk-reflogs", "--format=%H", name, "--") or "" for name in STASHES]
    return ["HEAD", *found.split(), *(commit for text in stashed for commit in text.split())]


def git(root: Path, *arguments: str) -> str | None:
    """Return the output of git in a folder; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace")


def shorten(name: str) -> str:
    """Shorten a reference for messages: branch main, tag v1, experiment .., commit .."""
    for prefix, word in (("refs/heads/", "branch"), ("refs/tags/", "tag"), ("refs/remotes/", "branch")):
        if name.startswith(prefix):
            return f"{word} {name.removeprefix(prefix)}"
    if name.startswith("refs/exps/"):
        return f"experiment {name.rpartition('/')[2]}"
    return name if len(name) < 40 else f"stash {name[:8]}"


def text_of(path: Path) -> str | None:
    """Return the text of a file, None if there is none."""
    return path.read_text() if path.is_file() else None


def note(needs: Needs, report: str | None, who: str) -> None:
    """Add the run named in a report, if any."""
    if report is None:
        return
    try:
        name = json.loads(report).get("run")
    except (ValueError, AttributeError):
        return
    if isinstance(name, str):
        add(needs, name, who)


def add(needs: Needs, name: str, who: str) -> None:
    """Add a reason to keep a run, once."""
    known = needs.setdefault(name, [])
    if who not in known:
        known.append(who)


def needed_by_mlflow(run_ids: Iterable[str]) -> dict[str, str]:
    """Return the reason to keep each MLflow run that is not deleted; keep all if MLflow does not answer."""
    ids = sorted(set(run_ids))
    if not ids:
        return {}
    active = active_runs(ids)
    if active is None:
        return dict.fromkeys(ids, "perhaps MLflow, which does not answer")
    return {run_id: f"MLflow run {run_id[:8]}" for run_id in active}
