"""Command clean: list the storage; with --delete, remove entries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext

import fsspec

from pipeline.clean.drivers import without_driver
from pipeline.clean.listing import INPUT, KEEP, REMOVING, RUN, STRIP, Entry, list_entries, resume_state
from pipeline.clean.needs import find_needs
from pipeline.cluster.archive import archive_run, is_archived
from pipeline.cluster.storage import SNAPSHOT
from pipeline.runs.identity import RunFolder
from pipeline.storage.stores import complaint


def run(storage: str, *, delete: bool, unfinished: bool) -> None:
    """List the entries of a storage; with `delete`, perform their actions.

    Raises:
        ValueError: naming the storage, when it does not answer.
    """
    storage = storage.rstrip("/")
    try:
        entries = list_entries(storage, find_needs(), unfinished=unfinished)
        print(table(storage, entries), flush=True)
        marked = [entry for entry in entries if entry.action != KEEP]
        if not delete:
            print(
                "nothing was removed; --delete removes the marked entries" if marked else "nothing to remove",
                flush=True,
            )
            return
        freed = sum(carry_out(storage, entry) for entry in marked)
    except OSError as error:
        raise ValueError(complaint(storage, error)) from error
    print(f"removed {format_size(freed)}", flush=True)


def carry_out(storage: str, entry: Entry) -> int:
    """Remove or strip an entry and return the bytes freed; skip a run that has started meanwhile."""
    name = entry.name.rpartition("/")[2]
    guard = without_driver(storage, name) if entry.kind in ("run", "sweep") else nullcontext()
    try:
        with guard:
            if entry.action == STRIP:
                strip(storage, entry)
            else:
                remove(storage, entry.name)
    except ValueError as error:
        print(f"warning: {error}", flush=True)
        return 0
    print(f"{entry.action}: {entry.name}", flush=True)
    return entry.frees


def strip(storage: str, entry: Entry) -> None:
    """Remove all but the archive of a finished run, and all but the records of a finished sweep.

    Raises:
        ValueError: when that cannot be kept; nothing is removed then.
    """
    folder = RunFolder(storage, entry.name)
    if entry.kind == "run" and not is_archived(folder):
        archive_run(storage, entry.name)
    system, path = fsspec.url_to_fs(folder.url)
    for left in resume_state(storage, entry):
        system.rm(left, recursive=True)
    if system.exists(f"{path}/{SNAPSHOT}"):  # it names checkpoints that Ray would look for
        system.rm_file(f"{path}/{SNAPSHOT}")


def remove(storage: str, name: str) -> None:
    """Remove a run, a sweep, an input or the rest of one; a local folder is renamed first.

    Raises:
        ValueError: when the name is none of these: such a thing is never removed.
    """
    last = name.rpartition("/")[2]
    pattern = INPUT if name.startswith("inputs/") else RUN
    if name not in (last, f"sweeps/{last}", f"inputs/{last}") or not pattern.fullmatch(last.removesuffix(REMOVING)):
        raise ValueError(f"{storage}/{name} is not the name of a run, a sweep or an input; it was not removed")
    system, path = fsspec.url_to_fs(f"{storage}/{name}")
    if "file" in system.protocol and not last.endswith(REMOVING):
        system.mv(path, f"{path}{REMOVING}", recursive=True)
        path = f"{path}{REMOVING}"
    system.rm(path, recursive=True)


def table(storage: str, entries: Sequence[Entry]) -> str:
    """Format all entries, largest first, and the totals."""
    rows = [("what", "name", "size", "age", "action", "frees", "needed by")]
    for entry in sorted(entries, key=lambda entry: -entry.size):
        age = f"{max(time.time() - entry.modified, 0) / 86400:.0f} d"
        frees = format_size(entry.frees) if entry.action != KEEP else ""
        why = ", ".join(entry.why) or "nobody"
        rows.append((entry.kind, entry.name, format_size(entry.size), age, entry.action, frees, why))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[6]]) for row in rows
    ]
    total, freed = (
        (format_size(sum(amounts)) for amounts in zip(*((e.size, e.frees) for e in entries), strict=True))
        if (entries)
        else ("0 B", "0 B")
    )
    return "\n".join([*lines, f"{storage}: {total}, of which {freed} can be freed"])


def format_size(size: int) -> str:
    """Format a number of bytes."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
