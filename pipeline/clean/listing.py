"""List the entries of a storage, with the action for each; removes nothing."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from tqdm import tqdm

from pipeline.clean.drivers import Driver, find_driver, time_of
from pipeline.clean.needs import Needs, needed_by_mlflow
from pipeline.cluster.archive import is_archived
from pipeline.params.paths import outer_root, project_root
from pipeline.runs.identity import ENDED, RUN_ID, RunFolder, digest_file
from pipeline.runs.predecessor import checkpoints_of, list_folder
from pipeline.runs.sweep_folder import RESUME_STATE, SweepFolder

KEEP, STRIP, REMOVE = "keep", "drop resume state", "remove"
RUN = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8})?(\.\d{8}-\d{6})?")
INPUT = re.compile(r"[0-9a-f]{64}\.\w+")
REMOVING = ".removing"


@dataclass
class Entry:
    """An entry of the storage.

    Attributes:
        kind: run, sweep, input, rest (of an interrupted removal) or unknown.
        name: below the storage.
        frees: bytes that the action frees.
        modified: time of its newest file, in s since the epoch.
        why: what needs it, or another reason to keep it.
    """

    kind: str
    name: str
    size: int = 0
    frees: int = 0
    modified: float = 0.0
    action: str = KEEP
    why: list[str] = field(default_factory=list)


def list_entries(storage: str, needs: Needs, *, unfinished: bool) -> list[Entry]:
    """Return all entries of a storage, with their actions."""
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
    drivers = {name: find_driver(storage, name.rpartition("/")[2]) for name in ids}
    training = any(driver.lives for driver in drivers.values())
    for entry in tqdm(entries, disable=None, unit="entry", desc=storage, leave=False):
        measure(storage, entry)
        if entry.kind in ("run", "sweep"):
            who = [*needs.get(entry.name.rpartition("/")[2], []), active.get(ids[entry.name] or "", "")]
            decide(storage, entry, [each for each in who if each], drivers[entry.name], unfinished=unfinished)
        elif entry.kind == "input":
            decide_input(entry, training=training)
        elif entry.kind == "rest":
            entry.action, entry.frees = REMOVE, entry.size
        else:
            entry.why = ["unknown"]
    return entries


def kind_of(name: str, *, unknown: bool = False) -> str:
    """Return the kind of a name in the storage."""
    if name.endswith(REMOVING):
        return "rest"
    return "run" if RUN.fullmatch(name) and not unknown else "unknown"


def read_run_id(storage: str, entry: Entry) -> str | None:
    """Return the MLflow run id of a run or a sweep."""
    return RunFolder(storage, entry.name).read(RUN_ID)


def measure(storage: str, entry: Entry) -> None:
    """Return the entry with size and age."""
    system, path = fsspec.url_to_fs(f"{storage}/{entry.name}")
    files = system.find(path, detail=True)
    entry.size = sum(int(info["size"] or 0) for info in files.values())
    entry.modified = max((time_of(info) for info in files.values()), default=time.time())


def decide(storage: str, entry: Entry, who: list[str], driver: Driver, *, unfinished: bool) -> None:
    """Decide the action for a run or a sweep."""
    if driver.lives:
        entry.why = ["in training", *who]
        return
    ended = has_ended(storage, entry)
    entry.why = [*who, *([] if ended else ["not finished"]), *([driver.lease_left] if driver.lease_left else [])]
    if not who and (ended or unfinished):
        entry.action, entry.frees = REMOVE, entry.size
    elif ended and (left := resume_state(storage, entry)):
        system, _ = fsspec.url_to_fs(storage)
        entry.action, entry.frees = STRIP, sum(int(system.du(path)) for path in left)


def resume_state(storage: str, entry: Entry) -> list[str]:
    """Return the paths in a finished run or sweep that only resuming needs."""
    if entry.kind == "run":
        return checkpoints_of(RunFolder(storage, entry.name))
    found = list_folder(f"{storage}/{entry.name}")
    return [path for path in found if path.rpartition("/")[2] in RESUME_STATE]


def has_ended(storage: str, entry: Entry) -> bool:
    """Return whether a run or a sweep is finished; unknown, i.e. False, for those of older versions."""
    if entry.kind == "run":
        folder = RunFolder(storage, entry.name)
        return is_archived(folder) or folder.read(ENDED) is not None
    return SweepFolder(f"{storage}/{entry.name}").has_ended()


def decide_input(entry: Entry, *, training: bool) -> None:
    """Decide the action for an input file of clusters; a run that needs it again uploads it again."""
    here = [path for path in (outer_root(project_root()) / "data/prepared").glob("*.json") if path.is_file()]
    if training:
        entry.why = ["a run is in training"]
    elif Path(entry.name).stem in {digest_file(path) for path in here}:
        entry.why = ["data/prepared"]
    else:
        entry.action, entry.frees = REMOVE, entry.size
