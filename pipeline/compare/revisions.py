"""Files of a git revision or a DVC experiment, read by the commands of git and DVC."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXPERIMENT = re.compile(r"^\s+([0-9a-f]{7,40}) \[(.+)\]$", re.MULTILINE)


def git(*arguments: str) -> str | None:
    """Output of a git command; None if it fails or git is missing."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace").rstrip()


def resolve(name: str) -> str | None:
    """Return the commit of a git revision or a DVC experiment; None if the name is neither."""
    if not name or name.startswith("-"):
        return None
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit is None and name in (known := experiments()):
        return git("rev-parse", "--verify", "--quiet", f"{known[name]}^{{commit}}")
    return commit


def experiments() -> dict[str, str]:
    """Name -> commit of all DVC experiments; empty outside a repository."""
    if git("rev-parse", "--git-dir") is None:
        return {}
    done = _dvc("exp", "list", "--all-commits")
    return {name: commit for commit, name in EXPERIMENT.findall(done.stdout)}


def known_names() -> list[str]:
    """Names of branches, tags and experiments."""
    refs = git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags") or ""
    return [*refs.split(), *experiments()]


def fetch(name: str, commit: str, path: Path) -> Path:
    """Write a file of a commit, stored by git or DVC, to a path.

    Raises:
        ValueError: naming file and commit, when neither git nor DVC has it.
    """
    done = subprocess.run(["git", "show", f"{commit}:./{name}"], capture_output=True, check=False)
    if done.returncode == 0:
        path.write_bytes(done.stdout)
        return path
    root = git("rev-parse", "--show-toplevel")
    root = "." if root is None else root
    got = _dvc(
        "get", root, (git("rev-parse", "--show-prefix") or "") + name, "--rev", commit, "--out", str(path), "--quiet"
    )
    if got.returncode != 0:
        said = (got.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f"revision {commit[:8]} has no {name} that git or DVC can read here ({said}); if it ran elsewhere, "
            f"`dvc fetch` it; if its pipeline has not written it yet, run `dvc repro evaluate` there"
        )
    return path


def _dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
