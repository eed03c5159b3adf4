"""Runs of the same parameters and data whose code was another: found, named, and gone on from where conf/ says so.

A run's name is <digest of parameters and data>-<digest of the code>, so one listing of the storage finds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import fsspec

from pipeline.runs.fingerprint import spell_changes
from pipeline.runs.identity import CHECKPOINT, RunFolder
from pipeline.storage.stores import complaint

CODE = "code.json"
"""The text in a run's folder that says which code trains it, and which run it went on from."""


class Predecessor(NamedTuple):
    """A run of the same parameters and data under other code.

    Attributes:
        name: of its folder.
        changes: what differs in the code since.
    """

    name: str
    changes: str


def begin_run(storage: str, name: str, code: Mapping[str, str], *, goes_on: bool) -> dict[str, str]:
    """Prepare the folder of a run: with `goes_on`, a run without checkpoints takes those of its predecessor.

    Says what it does, and says which predecessor it leaves alone.

    Args:
        storage: folder or URL of the runs.
        code: as of pipeline.runs.fingerprint.describe_code.
        goes_on: resume is `always` in conf/.

    Returns:
        The tags of the run in the tracker; none where it has no predecessor.

    Raises:
        ValueError: naming the storage, when it does not answer.
    """
    folder = RunFolder(storage, name)
    record: dict[str, Any] = json.loads(folder.read(CODE) or "{}")
    if not record.get("resumed_from") and not checkpoints_of(folder):
        record = choose_origin(storage, name, code, goes_on=goes_on)
    origin = record.get("resumed_from")
    if origin and not record["is_copied"]:
        folder.write(CODE, json.dumps(record))
        copy_checkpoints(RunFolder(storage, origin), folder)
        record["is_copied"] = True
    folder.write(CODE, json.dumps({**record, "code": dict(code)}, indent=1))
    return {"resumed_from": origin, "resumed_from.changes": record["changes"]} if origin else {}


def choose_origin(storage: str, name: str, code: Mapping[str, str], *, goes_on: bool) -> dict[str, Any]:
    """Say which run has the same parameters and data, and decide whether this one goes on from it."""
    found = find_predecessor(storage, name, code)
    if found is None:
        return {}
    if goes_on:
        print(
            f"warning: run {name} goes on from run {found.name}, which other code began (resume is always in conf/); "
            f"changed since: {found.changes}",
            flush=True,
        )
        return {"resumed_from": found.name, "changes": found.changes, "is_copied": False}
    print(
        f"run {name} begins at its first epoch: run {found.name} has the same parameters and data, but its code "
        f"differs ({found.changes}); to go on from it, stop this and set resume: always in conf/",
        flush=True,
    )
    return {}


def find_predecessor(storage: str, name: str, code: Mapping[str, str]) -> Predecessor | None:
    """The run of the same parameters and data that has the newest checkpoint, None where there is none."""
    candidates = []
    for other in names_like(storage, name):
        checkpoints = checkpoints_of(RunFolder(storage, other))
        if checkpoints:
            candidates.append((max(time_of(checkpoint) for checkpoint in checkpoints), other))
    if not candidates:
        return None
    newest = max(candidates)[1]
    record = json.loads(RunFolder(storage, newest).read(CODE) or "{}")
    return Predecessor(newest, spell_changes(record.get("code", {}), code))


def names_like(storage: str, name: str) -> list[str]:
    """The other folders of a storage whose names begin with the same digest of parameters and data."""
    experiment = name.partition("-")[0]
    found = [entry.rpartition("/")[2] for entry in list_folder(storage)]
    return sorted(other for other in found if re.fullmatch(rf"{experiment}-[0-9a-f]{{8}}", other) and other != name)


def checkpoints_of(folder: RunFolder) -> list[str]:
    """The paths of a run's checkpoints within its storage."""
    return [path for path in list_folder(folder.url) if path.rpartition("/")[2].startswith(CHECKPOINT)]


def time_of(checkpoint: str) -> int:
    """When a checkpoint was begun, as its name says, in ns since the epoch."""
    last = checkpoint.rpartition("_")[2]
    return int(last) if last.isdigit() else 0


def list_folder(url: str) -> list[str]:
    """The paths of what lies directly in a folder; none where it does not exist.

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
    """Copy the checkpoints of a run into the folder of another; the first run keeps its own.

    Raises:
        ValueError: naming the storage, when it does not answer.
    """
    try:
        system, source = fsspec.url_to_fs(origin.url)
        target = system._strip_protocol(folder.url)
        for checkpoint in checkpoints_of(origin):
            for path in system.find(checkpoint):
                copy = f"{target}/{path[len(source) :].lstrip('/')}"
                system.makedirs(copy.rpartition("/")[0], exist_ok=True)
                system.cp_file(path, copy)
    except OSError as error:
        raise ValueError(complaint(folder.url, error)) from error
