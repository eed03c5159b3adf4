"""Count the CPUs that this process may use: those of the machine, limited by its affinity and its cgroup."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def count_cpus() -> int:
    """Return the number of CPUs that this process may use, at least 1; a quota of 2.5 CPUs counts as 3.

    A container (`docker run --cpus 2`, a pod's limit) or a service (CPUQuota=) has a quota of CPU time, which
    os.cpu_count() does not see.
    """
    # sched_getaffinity exists on Linux only.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas(CGROUPS, own_cgroup()))]))


def own_cgroup() -> str:
    """Return the path of this process's cgroup below the cgroup v2 root; empty if there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line.removeprefix("0::").strip("/")
    return ""


def quotas(root: Path, own: str) -> Iterator[float]:
    """Yield the CPU limits of a cgroup and its parents, and that of cgroups v1.

    Args:
        root: mount point of cgroups.
        own: path of the cgroup below it.
    """
    folder = root / own
    for each in (folder, *folder.parents):
        with suppress(OSError, ValueError):
            yield from quota(*(each / "cpu.max").read_text().split())
        if each == root:
            break
    with suppress(OSError, ValueError):
        yield from quota(*((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")))


def quota(time: str, period: str) -> Iterator[float]:
    """Yield the limit in CPUs; nothing for `max` and -1, which mean no limit."""
    if time.strip() != "max" and float(time) > 0:
        yield float(time) / float(period)
