"""Provenance tags of a run: commit, data, and the command that reproduces it."""

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
from pipeline.tracking.interface import NoopRun
from pipeline.tracking.run import Run

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "dvc")
CODE = ("retinanet", "pipeline", "dvc.yaml", "requirements.txt")
"""Paths that determine a result, besides params.yaml and the data, which have tags of their own."""

SOURCES = (
    *(f":(glob){package}/**/*.{ending}" for package in ("retinanet", "pipeline") for ending in ("py", "yaml")),
    "dvc.yaml",
    "requirements.txt",
)
"""The files among them, as git pathspecs. No other file (.env, keys, data) is uploaded."""

MAX_DIFF = 2**20
"""Maximum number of characters of the uploaded diff."""

MAX_FILE = 2**18
"""Maximum size of a file in the diff, in bytes; source files are smaller."""


def provenance_tags(
    *, params: Mapping[str, object], run_digest: str, data_hash: str | None = None, ray_address: str | None = None
) -> dict[str, str]:
    """Return the provenance tags of this run; unknown ones (no git, no DVC experiment) are left out.

    Args:
        params: dotted name -> value, all of params.yaml as used by the run.
        run_digest: of parameters, data and anchors; the name of the run's folder.
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
    """Return the stage, command or script as which this process was started."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.name == "__main__.py" else script.name
    # `retinanet train` and `python -m pipeline train`
    return sys.argv[1] if name in ("retinanet", "pipeline") and len(sys.argv) > 1 else name


def git_tags(params: Mapping[str, object]) -> dict[str, str | None]:
    """Return commit, branch, whether the code differs from the commit, and the command that reproduces the run."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    branch = git("rev-parse", "--abbrev-ref", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
    return {
        "mlflow.source.git.commit": commit,  # shown by MLflow as the run's version
        "git.commit": commit,
        "git.branch": None if branch == "HEAD" else branch,  # HEAD: detached, as in DVC's copies
        "git.dirty": "true" if changes else "false",
        "git.changes": changes,
        "reproduce": reproducing_command(commit, params),
    }


def reproducing_command(commit: str, params: Mapping[str, object]) -> str | None:
    """Return the command that checks out the commit and runs it with changed parameters; None if it cannot run."""
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


def log_code_changes(run: Run | NoopRun) -> None:
    """Upload the uncommitted changes of the code, if any, as code/git.diff, for `git apply`."""
    diff = git_diff()
    if diff:
        run.log_text(diff, "code/git.diff")


def git_diff() -> str:
    """Return the diff of the sources against the commit, including new files; empty without changes or without git.

    Files too large for source code are listed at the end instead.
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
    """Return the diff that adds a file, with its path from the root of the repository, for `git apply`."""
    below = git("rev-parse", "--show-prefix") or ""
    prefixes = (f"--src-prefix=a/{below}", f"--dst-prefix=b/{below}")
    return git_output("diff", "--no-index", *prefixes, "--", os.devnull, path, also=1)


def paths_of(*arguments: str) -> list[str]:
    """Return the NUL-terminated paths that a git command prints."""
    return [path for path in (git_output(*arguments) or "").split("\0") if path]


def size_of(path: str) -> int:
    """Return the size of a file of the project in bytes; 0 if it was deleted."""
    try:
        return (project_root() / path).lstat().st_size
    except OSError:
        return 0


def within(paths: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    """Return the paths whose files are not too large."""
    return [path for path in paths if sizes[path] <= MAX_FILE]


def git(*arguments: str) -> str | None:
    """Return the stripped output of git in the project's folder; None without git or a repository."""
    printed = git_output(*arguments)
    return None if printed is None else printed.strip()


def git_output(*arguments: str, also: int = 0) -> str | None:
    """Return the unstripped output of git; see `git`.

    Args:
        also: another exit status that means success.
    """
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": 30}
    try:
        done = subprocess.run(["git", *arguments], cwd=project_root(), check=False, **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode in (0, also) else None


def installed(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def user() -> str | None:
    """Return the user's name; empty if unknown, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
