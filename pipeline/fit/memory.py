"""Memory of a worker for decoded pictures: its share of half of the free memory of the node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.cluster.worker import Worker
from pipeline.fit.config import WorkerConfig
from pipeline.params.runtime import RuntimeConfig

FRACTION = 0.5  # the rest is for batches, activations and gradients, which are not allocated yet
# Files of a control group: its limit, its usage, and the part of the usage that is page cache.
FILES_V2 = ("memory.max", "memory.current", "inactive_file")
FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def picture_budget(config: WorkerConfig, worker: Worker) -> int:
    """Bytes of decoded pictures that this worker may cache; 0 if cache_images is false in conf/."""
    if not config.runtime.cache_images:
        return 0
    processes = processes_here(config.runtime, worker, trials_at_once=config.trials_at_once)
    return int(FRACTION * available_memory() / processes)


def processes_here(runtime: RuntimeConfig, worker: Worker, *, trials_at_once: int | None) -> int:
    """Upper bound of the processes that train on this node at once, including other trials of a sweep."""
    if trials_at_once is None:
        return worker.workers_here
    room = (os.cpu_count() or 1) // runtime.cpus_per_worker
    return max(worker.workers_here, min(room, trials_at_once * runtime.most))


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may allocate: the free memory of the machine, or less if a container has a limit."""
    free: int = psutil.virtual_memory().available
    return max(0, min([free, *left_in_groups(root)]))


def left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left in each control group of this process that has a limit, of version 1 or 2.

    Args:
        root: of the file system; in a container, groups outside it are not visible.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        own = mounted / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mounted):
                yield from left_in_group(folder, *(FILES_V1 if controllers else FILES_V2))


def left_in_group(folder: Path, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    """Bytes left in one control group, if it has a limit."""
    try:
        bound = (folder / limit).read_text().strip()
        taken = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # a group without files: the root of the machine, or one that is not visible from here
        return
    if bound != "max":
        yield int(bound) - taken + int(stat.get(reclaimable, 0))
