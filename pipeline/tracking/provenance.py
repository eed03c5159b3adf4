"""Tags that lead from a run back to the commit, the data and the command that made it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.params import flatten
from pipeline.params.reading import parse_yaml

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "dvc")
CODE = ("retinanet", "pipeline", "dvc.yaml", "requirements.txt")
"""What makes a result besides params.yaml and the data, which have their own tags."""


def provenance_tags(
    *, params: Mapping[str, object], data_hash: str, run_digest: str, ray_address: str | None = None
) -> dict[str, str]:
    """Where this run comes from; what is not known (no git, no DVC experiment) is left out.

    Args:
        params: dotted name -> value, all of params.yaml as the run uses it.
        data_hash: of the prepared data.
        run_digest: of parameters, data and anchors, as it names the run directory.
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
        "mlflow.source.name": os.environ.get("DVC_STAGE"),
        **{name: installed(name) for name in PACKAGES},
        **git_tags(params),
    }
    return {key: text for key, text in tags.items() if text}


def git_tags(params: Mapping[str, object]) -> dict[str, str | None]:
    """Commit, branch, whether the code differs from the commit, and the command that reproduces the run from it."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    branch = git("rev-parse", "--abbrev-ref", "HEAD")
    changes = git("status", "--porcelain", "--", *CODE)
    return {
        "mlflow.source.git.commit": commit,  # MLflow shows it as the run's version
        "git.commit": commit,
        "git.branch": None if branch == "HEAD" else branch,  # HEAD: detached, as in DVC's copies
        "git.dirty": "true" if changes else "false",
        "git.changes": changes,
        "reproduce": reproducing_command(commit, params),
    }


def reproducing_command(commit: str, params: Mapping[str, object]) -> str:
    """Check out the commit and run it, with the parameters that differ from the commit's own."""
    committed = git("show", f"{commit}:./params.yaml")
    held = flatten(parse_yaml(committed, source="params.yaml")) if committed else {}
    texts = {key: json.dumps(value) for key, value in params.items()}
    settings = [f"{key}={text}" for key, text in texts.items() if key in held and json.dumps(held[key]) != text]
    if not settings:
        return f"git checkout {commit} && dvc repro"
    return f"git checkout {commit} && dvc exp run {' '.join(f'-S {shlex.quote(setting)}' for setting in settings)}"


def git(*arguments: str) -> str | None:
    """What git prints in the project's folder; None without git or without a repository."""
    root = Path(os.environ.get("DVC_ROOT", "."))
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


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
