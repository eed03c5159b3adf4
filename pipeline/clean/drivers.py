"""Whether a driver works on a run: its lock on this machine, else its lease in the storage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from pipeline.cli.progress import duration
from pipeline.params.paths import outer_root, project_root
from pipeline.runs.lease import TTL_S, LeaseFile, Owner, hold_lease, identity_of
from pipeline.runs.predecessor import list_folder

SILENCE_S = 10 * TTL_S
"""A lease that was not renewed for so long counts as a dead driver's in the list, which cannot watch it for TTL_S. The
margin is for what the storage's clock and this machine's differ by."""


class Driver(NamedTuple):
    """The driver of a run.

    Attributes:
        lives: whether it works on the run, as far as can be seen.
        lease_left: why its lease counts as left behind; empty where there is none, or the driver lives.
    """

    lives: bool
    lease_left: str = ""


def find_driver(storage: str, name: str) -> Driver:
    """The driver of a run or a sweep.

    Args:
        name: of the run, without the folder that it lies in.
    """
    if is_locked(lock_path(name)):
        return Driver(lives=True)
    if not any(path.endswith(f"/{name}.json") for path in list_folder(f"{storage}/leases")):
        return Driver(lives=False)
    lease = LeaseFile(storage, name)
    try:
        owner, written = Owner.of(lease.read() or b""), time_of(lease.system.info(lease.path))
    except FileNotFoundError:  # given back just now
        return Driver(lives=False)
    if owner.lock and owner.lock == identity_of(lock_path(name)):  # which is free
        return Driver(lives=False, lease_left="its driver on this machine has ended")
    silence_s = time.time() - written
    if written and silence_s > SILENCE_S:
        return Driver(lives=False, lease_left=f"lease not renewed for {duration(silence_s)}")
    return Driver(lives=True)


@contextmanager
def without_driver(storage: str, name: str) -> Iterator[None]:
    """Keep drivers of this machine off a run while the body removes something of it.

    A lease that was left behind is taken over as a driver takes it over, and removed in the end.

    Raises:
        ValueError: when a driver works on it.
    """
    path = lock_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = find_driver(storage, name)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            driver = Driver(lives=True)
        if driver.lives:
            raise ValueError(f"{name} is in training now; it is left as it is")
        if driver.lease_left:
            stack.enter_context(hold_lease(storage, name, lock=path))
        yield


def is_locked(path: Path) -> bool:
    """Whether a process on this machine holds a lock."""
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


def time_of(info: Mapping[str, Any]) -> float:
    """When a file was written, in seconds since the epoch, as its file system says it; 0 where it does not."""
    found = info.get("mtime") or info.get("created") or 0.0
    return found.timestamp() if isinstance(found, datetime) else float(found)
