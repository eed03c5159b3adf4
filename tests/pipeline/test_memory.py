"""How much memory a worker fills with pictures: of the machine, of a container, and shared with the others there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from pipeline.cluster.worker import Worker
from pipeline.fit import memory
from pipeline.fit.config import InputFiles, WorkerConfig
from pipeline.fit.loop import load_splits, report_memory
from pipeline.fit.memory import available_memory, picture_budget, processes_here
from pipeline.params import load_params
from pipeline.params.runtime import RuntimeConfig, load_runtime
from tests.small_world import SmallWorld

GB = 10**9
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
RUNTIME = load_runtime(Path(__file__).parents[2] / "conf/local.yaml").model_copy(
    update={"cache_images": True, "loader_processes": 0, "workers": [1, 2], "cpus_per_worker": 2}
)


def worker_of(workers_here: int, events: list[dict[str, Any]] | None = None, rank: int = 0) -> Worker:
    heard = [] if events is None else events
    return Worker(
        rank=rank,
        num_workers=2,
        device=torch.device("cpu"),
        send_event=heard.append,
        report=lambda metrics, write: None,
        last_checkpoint=lambda: pytest.fail("no checkpoint is looked for"),
        workers_here=workers_here,
    )


def config_of(runtime: RuntimeConfig) -> WorkerConfig:
    return WorkerConfig(PARAMS, runtime, description={}, data=InputFiles("train.json", "val.json", "pictures"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine with 16 GB left and without a limit."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GB))
    return tmp_path


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def group_v2(limit: str, used: int, inactive: int) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {inactive}\n",
    }


def test_a_machine_without_limits_has_what_the_system_has_left(machine: Path) -> None:
    assert available_memory(machine) == 16 * GB


@pytest.mark.parametrize(
    ("limit", "left"),
    [(str(4 * GB), 2 * GB), ("max", 16 * GB), (str(40 * GB), 16 * GB), (str(2 * GB), 0)],
    ids=["limited", "unlimited", "above the machine", "full"],
)
def test_a_container_of_cgroup_2_has_what_its_limit_leaves(machine: Path, limit: str, left: int) -> None:
    # 3 GB are used, 1 GB of it by cached files, which the kernel gives back: 2 of 4 GB are left.
    write(machine, {"proc/self/cgroup": "0::/\n"})
    write(machine / "sys/fs/cgroup", group_v2(limit, 3 * GB, 1 * GB))
    assert available_memory(machine) == left


def test_the_narrowest_of_nested_groups_decides(machine: Path) -> None:
    write(machine, {"proc/self/cgroup": "0::/job/step\n"})
    write(machine / "sys/fs/cgroup/job/step", group_v2("max", 1 * GB, 0))
    write(machine / "sys/fs/cgroup/job", group_v2(str(6 * GB), 1 * GB, 0))
    assert available_memory(machine) == 5 * GB


@pytest.mark.parametrize("seen", ["docker/abc", ""], ids=["from the host", "from within"])
def test_a_container_of_cgroup_1_has_what_its_limit_leaves(machine: Path, seen: str) -> None:
    write(machine, {"proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n"})
    files = {"memory.limit_in_bytes": f"{4 * GB}\n", "memory.usage_in_bytes": f"{3 * GB}\n"}
    write(machine / "sys/fs/cgroup/memory" / seen, files | {"memory.stat": f"total_inactive_file {1 * GB}\n"})
    assert available_memory(machine) == 2 * GB


def test_workers_of_a_node_share_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 12 * GB)
    assert picture_budget(config_of(RUNTIME), worker_of(1)) == 6 * GB
    assert picture_budget(config_of(RUNTIME), worker_of(3)) == 2 * GB
    assert picture_budget(config_of(RUNTIME.model_copy(update={"cache_images": False})), worker_of(1)) == 0


def test_trials_of_a_sweep_share_the_node_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)  # room for 4 processes of 2 CPUs
    assert processes_here(RUNTIME, worker_of(1), trials_at_once=50) == 4
    assert processes_here(RUNTIME, worker_of(1), trials_at_once=1) == 2  # of at most 2 workers
    assert processes_here(RUNTIME.model_copy(update={"workers": 1}), worker_of(1), trials_at_once=3) == 3
    assert processes_here(RUNTIME, worker_of(5), trials_at_once=1) == 5  # they are there
    assert processes_here(RUNTIME, worker_of(2), trials_at_once=None) == 2


def test_what_is_kept_is_told_once_training_pictures_first(small_world: SmallWorld) -> None:
    data = InputFiles(str(small_world.train), str(small_world.val), str(small_world.root))
    size = load_splits(data, keep_bytes=10**9)[0].kept_bytes
    # All nine pictures for training, and the first of those for validation: 64 x 64 px of 3 bytes.
    train, val = load_splits(data, keep_bytes=size + 12_288)
    assert (train.num_kept, val.num_kept) == (9, 1)
    events: list[dict[str, Any]] = []
    for rank in range(2):
        report_memory(worker_of(2, events, rank), 2_340_000_000, train, val)
    report_memory(worker_of(2, events), 0, train, val)
    text = "caching 10 of 18 decoded images in memory (2.3 GB budget per worker)"
    assert events == [{"kind": "memory", "text": text}]
