"""Tags that lead from a run back to the commit, the data and the command that made it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.params import flatten
from pipeline.params.paths import project_root
from pipeline.params.reading import parse_yaml
from pipeline.tracking.hardware import hardware_tags
from pipeline.tracking.run import Run
from pipeline.tracking.verbs import NoRun

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "dvc")
CODE = ("retinanet", "pipeline", "dvc.yaml", "requirements.txt")
"""What makes a result besides params.yaml and the data, which have their own tags."""

SOURCES = (
    *(f":(glob){package}/**/*.{ending}" for package in ("retinanet", "pipeline") for ending in ("py", "yaml")),
    "dvc.yaml",
    "requirements.txt",
)
"""Its files as pathspecs of git. Nothing else that lies beside them (.env, keys, data) leaves this machine."""

MAX_DIFF = 2**20
"""Characters of the diff that goes with a run."""

MAX_FILE = 2**18
"""Bytes of a file in it; source is smaller."""


def provenance_tags(
    *, params: Mapping[str, object], run_digest: str, data_hash: str | None = None, ray_address: str | None = None
) -> dict[str, str]:
    """Where this run comes from; what is not known (no git, no DVC experiment) is left out.

    Args:
        params: dotted name -> value, all of params.yaml as the run uses it.
        run_digest: of parameters, data and anchors, as it names the run directory.
        data_hash: of the prepared data.
    """
    tags = {
        "data_hash": data_hash,
        "run_digest": run_digest,
        "ray_address": ray_address,
        "host": platform.node(),
        "python": platform.python_version(),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp_baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV"),
        "mlflow.user": user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": os.environ.get("DVC_STAGE") or command(),
        **{name: installed(name) for name in PACKAGES},
        **hardware_tags(),
        **git_tags(params),
    }
    return {key: text for key, text in tags.items() if text}


def command() -> str:
    """The stage, command or script that this process was started as."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.name == "__main__.py" else script.name
    # `retinanet train` and `python -m pipeline train`
    return sys.argv[1] if name in ("retinanet", "pipeline") and len(sys.argv) > 1 else name


def git_tags(params: Mapping[str, object]) -> dict[str, str | None]:
    """Commit, branch, whether the code differs from the commit, and the command that reproduces the run from it."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    branch = git("rev-parse", "--abbrev-ref", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
    return {
        "mlflow.source.git.commit": commit,  # MLflow shows it as the run's version
        "git.commit": commit,
        "git.branch": None if branch == "HEAD" else branch,  # HEAD: detached, as in DVC's copies
        "git.dirty": "true" if changes else "false",
        "git.changes": changes,
        "reproduce": reproducing_command(commit, params),
    }


def reproducing_command(commit: str, params: Mapping[str, object]) -> str | None:
    """Check out the commit and run it, with the parameters that differ from the commit's own; None if it cannot run."""
    committed = git("show", f"{commit}:./params.yaml")
    try:
        held = flatten(parse_yaml(committed, source="params.yaml")) if committed else {}
    except ValueError:
        return None
    texts = {key: json.dumps(value) for key, value in params.items()}
    settings = [f"{key}={text}" for key, text in texts.items() if key in held and json.dumps(held[key]) != text]
    if not settings:
        return f"git checkout {commit} && dvc repro"
    return f"git checkout {commit} && dvc exp run {' '.join(f'-S {shlex.quote(setting)}' for setting in settings)}"


def log_code_changes(run: Run | NoRun) -> None:
    """Where the code differs from the commit, give the run the difference, for `git apply`: code/git.diff."""
    diff = git_diff()
    if diff:
        run.log_text(diff, "code/git.diff")


def git_diff() -> str:
    """How the sources differ from the commit, new files included; empty where they do not, or without git.

    What is too large for a source file is named at the end instead.
    """
    changed = paths_of("diff", "--name-only", "--relative", "-z", "HEAD", "--", *SOURCES)
    new = paths_of("ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES)
    sizes = {path: size_of(path) for path in [*changed, *new]}
    diffs = [git_output("diff", "HEAD", "--", *small)] if (small := within(changed, sizes)) else []
    diffs += [diff_of_new(path) for path in within(new, sizes)]
    diffs += [f"[left out: {path}, {size} bytes]\n" for path, size in sizes.items() if size > MAX_FILE]
    text = "".join(diff for diff in diffs if diff)
    if len(text) <= MAX_DIFF:
        return text
    return f"{text[:MAX_DIFF]}\n[cut here: {len(text) - MAX_DIFF} of {len(text)} characters are missing]\n"


def diff_of_new(path: str) -> str | None:
    """The difference that adds a file, with its path from the root of the repository, as `git apply` reads it."""
    below = git("rev-parse", "--show-prefix") or ""
    prefixes = (f"--src-prefix=a/{below}", f"--dst-prefix=b/{below}")
    return git_output("diff", "--no-index", *prefixes, "--", os.devnull, path, also=1)


def paths_of(*arguments: str) -> list[str]:
    """The paths that a command of git prints, each ended by a zero byte."""
    return [path for path in (git_output(*arguments) or "").split("\0") if path]


def size_of(path: str) -> int:
    """Bytes of a file of the project; 0 where it was deleted."""
    try:
        return (project_root() / path).lstat().st_size
    except OSError:
        return 0


def within(paths: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    """Those of the paths whose files are not too large."""
    return [path for path in paths if sizes[path] <= MAX_FILE]


def git(*arguments: str) -> str | None:
    """What git prints in the project's folder; None without git or without a repository."""
    printed = git_output(*arguments)
    return None if printed is None else printed.strip()


def git_output(*arguments: str, also: int = 0) -> str | None:
    """As `git`, to the last blank.

    Args:
        also: exit status that means success besides 0.
    """
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": 30}
    try:
        done = subprocess.run(["git", *arguments], cwd=project_root(), check=False, **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode in (0, also) else None


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def user() -> str | None:
    """Who runs this; a container may not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
