"""Find the driver of a run: by its lock on this machine, else by its lease in the storage."""

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
"""Age in s from which the list considers a lease abandoned, because it cannot watch it for TTL_S. The margin allows for
a difference between the clocks of the storage and of this machine."""


class Driver(NamedTuple):
    """The driver of a run.

    Attributes:
        lives: whether it is working on the run, as far as can be seen.
        lease_left: why its lease is considered abandoned; empty without a lease, or if the driver lives.
    """

    lives: bool
    lease_left: str = ""


def find_driver(storage: str, name: str) -> Driver:
    """Return the driver of a run or a sweep.

    Args:
        name: of the run, without its folder.
    """
    if is_locked(lock_path(name)):
        return Driver(lives=True)
    if not any(path.endswith(f"/{name}.json") for path in list_folder(f"{storage}/leases")):
        return Driver(lives=False)
    lease = LeaseFile(storage, name)
    try:
        owner, written = Owner.of(lease.read() or b""), time_of(lease.system.info(lease.path))
    except FileNotFoundError:  # released just now
        return Driver(lives=False)
    if owner.lock and owner.lock == identity_of(lock_path(name)):  # a free lock
        return Driver(lives=False, lease_left="its driver on this machine has ended")
    silence_s = time.time() - written
    if written and silence_s > SILENCE_S:
        return Driver(lives=False, lease_left=f"lease not renewed for {duration(silence_s)}")
    return Driver(lives=True)


@contextmanager
def without_driver(storage: str, name: str) -> Iterator[None]:
    """Exclude other drivers from a run while the body removes part of it.

    An abandoned lease is taken over as by a driver, and removed at the end.

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
            raise ValueError(f"{name} is in training now; it was not removed")
        if driver.lease_left:
            stack.enter_context(hold_lease(storage, name, lock=path))
        yield


def is_locked(path: Path) -> bool:
    """Return whether a process on this machine holds a lock."""
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
    """Return the lock file of a run on this machine."""
    return outer_root(project_root()) / "runs" / "locks" / f"{name}.lock"


def time_of(info: Mapping[str, Any]) -> float:
    """Return the modification time of a file in s since the epoch; 0 if its file system does not report it."""
    found = info.get("mtime") or info.get("created") or 0.0
    return found.timestamp() if isinstance(found, datetime) else float(found)
