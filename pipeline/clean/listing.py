"""The entries of a storage with what is to become of each; nothing is removed here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock, Timeout
from tqdm import tqdm

from pipeline.clean.needs import Needs, needed_by_mlflow
from pipeline.finished import ENDED, is_finished
from pipeline.identity import RUN_ID, RunFolder, digest_file
from pipeline.params.paths import outer_root, project_root
from pipeline.predecessor import checkpoints_of, list_folder
from pipeline.sweep.records import ENDED as TRIAL_ENDED
from pipeline.sweep.records import EXHAUSTED, SweepFolder

KEEP, STRIP, REMOVE = "keep", "drop resume state", "remove"
RUN = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8})?(\.\d{8}-\d{6})?")
INPUT = re.compile(r"[0-9a-f]{64}\.\w+")
REMOVING = ".removing"


@dataclass
class Entry:
    """Something in the storage.

    Attributes:
        kind: run, sweep, input, rest (of a removal that was cut off) or unknown.
        name: below the storage.
        frees: bytes that the action gives back.
        modified: seconds since the epoch, of its newest file.
        why: who needs it, or why else it is kept.
    """

    kind: str
    name: str
    size: int = 0
    frees: int = 0
    modified: float = 0.0
    action: str = KEEP
    why: list[str] = field(default_factory=list)


def list_entries(storage: str, needs: Needs, *, unfinished: bool) -> list[Entry]:
    """Everything in a storage, with what is to become of it."""
    names = [path.rpartition("/")[2] for path in list_folder(storage)]
    entries = [Entry(kind_of(name), name) for name in names if name not in ("sweeps", "inputs", "leases", "locks")]
    for folder, kind, pattern in (("sweeps", "sweep", RUN), ("inputs", "input", INPUT)):
        below = [path.rpartition("/")[2] for path in list_folder(f"{storage}/{folder}")]
        entries += [
            Entry(kind if pattern.fullmatch(name) else kind_of(name, unknown=True), f"{folder}/{name}")
            for name in below
        ]
    ids = {entry.name: read_run_id(storage, entry) for entry in entries if entry.kind in ("run", "sweep")}
    active = needed_by_mlflow(run_id for run_id in ids.values() if run_id)
    training = any(in_use(storage, entry.name) for entry in entries if entry.kind in ("run", "sweep"))
    for entry in tqdm(entries, disable=None, unit="entry", desc=storage, leave=False):
        measure(storage, entry)
        if entry.kind in ("run", "sweep"):
            who = [*needs.get(entry.name.rpartition("/")[2], []), active.get(ids[entry.name] or "", "")]
            decide(storage, entry, [each for each in who if each], unfinished=unfinished)
        elif entry.kind == "input":
            decide_input(entry, training=training)
        elif entry.kind == "rest":
            entry.action, entry.frees = REMOVE, entry.size
        else:
            entry.why = ["not known"]
    return entries


def kind_of(name: str, *, unknown: bool = False) -> str:
    """What a name directly in the storage stands for."""
    if name.endswith(REMOVING):
        return "rest"
    return "run" if RUN.fullmatch(name) and not unknown else "unknown"


def read_run_id(storage: str, entry: Entry) -> str | None:
    """The MLflow run of a run or a sweep."""
    return RunFolder(storage, entry.name).read(RUN_ID)


def in_use(storage: str, name: str) -> bool:
    """Whether a driver has a lease on it, or a process on this machine its lock."""
    name = name.rpartition("/")[2]
    if any(path.endswith(f"/{name}.json") for path in list_folder(f"{storage}/leases")):
        return True
    path = lock_path(name)
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def lock_path(name: str) -> Path:
    """The lock of a run on this machine."""
    return outer_root(project_root()) / "runs" / "locks" / f"{name}.lock"


def measure(storage: str, entry: Entry) -> None:
    """Fill in size and age."""
    system, path = fsspec.url_to_fs(f"{storage}/{entry.name}")
    files = system.find(path, detail=True)
    entry.size = sum(int(info["size"] or 0) for info in files.values())
    entry.modified = max((time_of(info) for info in files.values()), default=time.time())


def time_of(info: Mapping[str, Any]) -> float:
    """When a file was written, as its file system says it."""
    found = info.get("mtime") or info.get("created") or 0.0
    return found.timestamp() if isinstance(found, datetime) else float(found)


def decide(storage: str, entry: Entry, who: list[str], *, unfinished: bool) -> None:
    """What is to become of a run or a sweep."""
    entry.why = list(who)
    if in_use(storage, entry.name):
        entry.why = ["in training", *who]
    elif not has_ended(storage, entry):
        entry.why = [*who, "not finished"]
        if unfinished and not who:
            entry.action, entry.frees = REMOVE, entry.size
    elif not who:
        entry.action, entry.frees = REMOVE, entry.size
    elif entry.kind == "run" and (checkpoints := checkpoints_of(RunFolder(storage, entry.name))):
        entry.action = STRIP
        system, _ = fsspec.url_to_fs(storage)
        entry.frees = sum(int(system.du(path)) for path in checkpoints)


def has_ended(storage: str, entry: Entry) -> bool:
    """Whether nothing of a run or a sweep is left to train; of what an older version has left this is not known."""
    if entry.kind == "run":
        folder = RunFolder(storage, entry.name)
        return is_finished(folder) or folder.read(ENDED) is not None
    sweep = SweepFolder(f"{storage}/{entry.name}")
    plan, records = sweep.read_json("sweep.json"), sweep.records()
    if plan is None or any(record["state"] not in TRIAL_ENDED for record in records):
        return False
    return len(records) >= plan["trials"] or sweep.read(EXHAUSTED) is not None


def decide_input(entry: Entry, *, training: bool) -> None:
    """What is to become of a file that clusters have read; a run that needs it again puts it there again."""
    here = [path for path in (outer_root(project_root()) / "data/prepared").glob("*.json") if path.is_file()]
    if training:
        entry.why = ["a run is in training"]
    elif Path(entry.name).stem in {digest_file(path) for path in here}:
        entry.why = ["data/prepared"]
    else:
        entry.action, entry.frees = REMOVE, entry.size
