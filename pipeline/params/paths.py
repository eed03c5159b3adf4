"""Locations of the project's files: resolves every path and URL in params.yaml and conf/.

A URL stays as it is. `file:///x` is the path /x, `~` is the home of whoever runs the command, and any other path is
relative to the folder of params.yaml, whatever the depth of that folder in a DVC repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from pipeline.params.credentials import credentials_complaint
from pipeline.params.runtime import RuntimeConfig

FILE_SCHEME = re.compile(r"^(?:file|local):(?://)?")


def project_root() -> Path:
    """Return the folder of params.yaml: the current one, else the root of the DVC repository that runs this process.

    DVC_ROOT alone is not enough: the project may be a subfolder of the repository, and in an experiment that DVC
    runs in a copy (`dvc exp run --temp`, `--queue`) it names the original.
    """
    here = Path.cwd()
    return here if (here / "params.yaml").exists() else Path(os.environ.get("DVC_ROOT", here)).resolve()


def outer_root(root: Path) -> Path:
    """Return the original project if this is DVC's copy for an experiment (.dvc/tmp/exps/..), else the folder itself.

    Data that must outlive the copy (checkpoints, MLflow's store) belongs there.
    """
    parts = root.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            # The copy has its own .dvc; the project has the same relative path in both.
            copies = (folder for folder in (root, *root.parents[: len(parts) - i - 3]) if (folder / ".dvc").is_dir())
            return Path(*parts[:i]) / root.relative_to(next(copies, root))
    return root


def is_url(location: str) -> bool:
    """Return whether a location, as returned by `resolve`, is a URL and not a local path."""
    return "://" in location


def resolve(location: str, base: Path, *, name: str) -> str:
    """Return an absolute path, or a URL.

    Args:
        location: as the user wrote it.
        base: the folder of relative paths.
        name: the parameter that holds it, for the error.

    Raises:
        ValueError: naming the parameter, when no folder can be meant, or the URL holds credentials.
    """
    complaint = credentials_complaint(location, name=name)
    if complaint is not None:
        raise ValueError(complaint)
    scheme = FILE_SCHEME.match(location)
    path = unquote(location[scheme.end() :]) if scheme else location
    if scheme and not path.startswith("/"):
        raise ValueError(f"{name} is {location}, expected an absolute path after file://, e.g. file:///data/mine")
    if is_url(path):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(
            f"{name} is {location}, but this machine has no user {path[1:].partition('/')[0]}; write an absolute path, "
            f"or ./{path} for a folder of that name"
        )
    return str(base / expanded)


def resolve_input(location: str, *, name: str) -> str:
    """Resolve an input; a file that is missing in DVC's copy for an experiment is taken from the original project."""
    root = project_root()
    here = resolve(location, root, name=name)
    if is_url(here) or Path(here).exists():
        return here
    there = resolve(location, outer_root(root), name=name)
    return there if Path(there).exists() else here


def storage_location(runtime: RuntimeConfig) -> str:
    """Return the folder or URL of checkpoints and results."""
    return resolve(runtime.storage, outer_root(project_root()), name="storage in conf/")


def picture_root(root: str, runtime: RuntimeConfig | None = None) -> str:
    """Return the folder or URL of the images on this machine.

    Args:
        root: data.root, or info.root of a prepared file.
        runtime: its data_root takes precedence.
    """
    if runtime is not None and runtime.data_root is not None:
        return resolve_input(runtime.data_root, name="data_root in conf/")
    return resolve_input(root, name="data.root")


def check_folder(root: str) -> None:
    """Check that a local image folder exists; a URL is not checked.

    Raises:
        ValueError: naming the folder.
    """
    if not is_url(root) and not Path(root).is_dir():
        raise ValueError(
            f"the image folder {root} does not exist; set data_root in conf/ to where it is on this machine, or "
            "data.root in params.yaml and run prepare again"
        )
