"""Earlier runs of the same parameters and data under other code: find them, report them, resume from them on request.

A run is named <digest of parameters and data>-<digest of the code>, so one listing of the storage finds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import fsspec

from pipeline.runs.fingerprint import format_changes
from pipeline.runs.identity import CHECKPOINT, RunFolder
from pipeline.storage.stores import complaint

CODE = "code.json"
"""File in a run's folder: the code that trains it, and the run that it was resumed from."""


class Predecessor(NamedTuple):
    """A run of the same parameters and data under other code.

    Attributes:
        name: of its folder.
        changes: differences of the code since then.
    """

    name: str
    changes: str


def begin_run(storage: str, name: str, code: Mapping[str, str], *, resume_earlier: bool) -> dict[str, str]:
    """Prepare the folder of a run; with `resume_earlier`, a run without checkpoints starts from its predecessor's.

    Prints what it does, or which predecessor it ignores.

    Args:
        storage: folder or URL of the runs.
        code: as of pipeline.runs.fingerprint.describe_code.
        resume_earlier: resume is `always` in conf/.

    Returns:
        Tags for the MLflow run; empty without a predecessor.

    Raises:
        ValueError: naming the storage, when it does not answer.
    """
    folder = RunFolder(storage, name)
    record: dict[str, Any] = json.loads(folder.read(CODE) or "{}")
    if not record.get("resumed_from") and not checkpoints_of(folder):
        record = choose_origin(storage, name, code, resume_earlier=resume_earlier)
    origin = record.get("resumed_from")
    if origin and not record["is_copied"]:
        folder.write(CODE, json.dumps(record))
        copy_checkpoints(RunFolder(storage, origin), folder)
        record["is_copied"] = True
    folder.write(CODE, json.dumps({**record, "code": dict(code)}, indent=1))
    return {"resumed_from": origin, "resumed_from.changes": record["changes"]} if origin else {}


def choose_origin(storage: str, name: str, code: Mapping[str, str], *, resume_earlier: bool) -> dict[str, Any]:
    """Print which run has the same parameters and data, and decide whether this run resumes from it."""
    found = find_predecessor(storage, name, code)
    if found is None:
        return {}
    if resume_earlier:
        print(
            f"warning: run {name} resumes from run {found.name}, which another version of the code started "
            f"(resume: always in conf/); changed since: {found.changes}",
            flush=True,
        )
        return {"resumed_from": found.name, "changes": found.changes, "is_copied": False}
    print(
        f"run {name} starts at its first epoch: run {found.name} has the same parameters and data, but its code "
        f"differs ({found.changes}); to resume from it, stop this and set resume: always in conf/",
        flush=True,
    )
    return {}


def find_predecessor(storage: str, name: str, code: Mapping[str, str]) -> Predecessor | None:
    """Return the run of the same parameters and data with the newest checkpoint, None if there is none."""
    candidates = []
    for other in names_like(storage, name):
        checkpoints = checkpoints_of(RunFolder(storage, other))
        if checkpoints:
            candidates.append((max(time_of(checkpoint) for checkpoint in checkpoints), other))
    if not candidates:
        return None
    newest = max(candidates)[1]
    record = json.loads(RunFolder(storage, newest).read(CODE) or "{}")
    return Predecessor(newest, format_changes(record.get("code", {}), code))


def names_like(storage: str, name: str) -> list[str]:
    """Return the other runs in the storage with the same digest of parameters and data."""
    experiment = name.partition("-")[0]
    found = [entry.rpartition("/")[2] for entry in list_folder(storage)]
    return sorted(other for other in found if re.fullmatch(rf"{experiment}-[0-9a-f]{{8}}", other) and other != name)


def checkpoints_of(folder: RunFolder) -> list[str]:
    """Return the paths of a run's checkpoints within its storage."""
    return [path for path in list_folder(folder.url) if path.rpartition("/")[2].startswith(CHECKPOINT)]


def time_of(checkpoint: str) -> int:
    """Return the time in a checkpoint's name, in ns since the epoch."""
    last = checkpoint.rpartition("_")[2]
    return int(last) if last.isdigit() else 0


def list_folder(url: str) -> list[str]:
    """Return the paths of the direct members of a folder; empty if it does not exist.

    Raises:
        ValueError: naming the storage, when it does not answer.
    """
    try:
        system, path = fsspec.url_to_fs(url)
        entries = system.ls(path, detail=False)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(complaint(url, error)) from error
    return [entry.rstrip("/") for entry in entries]


def copy_checkpoints(origin: RunFolder, folder: RunFolder) -> None:
    """Copy the checkpoints of one run to the folder of another.

    Raises:
        ValueError: naming the storage, when it does not answer.
    """
    try:
        system, source = fsspec.url_to_fs(origin.url)
        _, target = fsspec.url_to_fs(folder.url)
        for checkpoint in checkpoints_of(origin):
            for path in system.find(checkpoint):
                copy = f"{target}/{path[len(source) :].lstrip('/')}"
                system.makedirs(copy.rpartition("/")[0], exist_ok=True)
                system.cp_file(path, copy)
    except OSError as error:
        raise ValueError(complaint(folder.url, error)) from error
