"""On what a run works: the machine of the driver, and the nodes of Ray's cluster."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def hardware_tags() -> dict[str, str]:
    """CPU, cores, memory and GPUs of this machine; what cannot be told is left out."""
    tags = {
        "hardware.cpu": cpu_model(),
        "hardware.cores": str(os.cpu_count() or ""),
        "hardware.memory": memory(),
        "hardware.gpu": counted(gpu_names()),
    }
    return {key: text for key, text in tags.items() if text}


def cluster_tags(cluster: Mapping[str, Any]) -> dict[str, str]:
    """Ray's job and the nodes at the beginning of the training.

    Args:
        cluster: as pipeline.cluster describes it: job, submission, and nodes with host, address and resources.
    """
    nodes = cluster["nodes"]
    tags = {
        "ray.job_id": cluster["job"],
        "ray.submission_id": cluster["submission"],
        "ray.num_nodes": str(len(nodes)),
        "ray.nodes": "; ".join(describe_node(node) for node in nodes),
    }
    return {key: text for key, text in tags.items() if text}


def describe_node(node: Mapping[str, Any]) -> str:
    """One node on one line: its name, its address, what it offers."""
    offers = ", ".join(f"{count:g} {kind}" for kind, count in node["resources"].items())
    return f"{node['host']} ({node['address']}): {offers}"


def cpu_model() -> str:
    """As the system calls it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory() -> str:
    """The main memory, in GiB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes
    except (OSError, ValueError):
        return ""
    return f"{total / 2**30:.0f} GiB"


def gpu_names() -> list[str]:
    """The GPUs that the driver of NVIDIA knows; asking it, unlike CUDA, takes none of their memory."""
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # noqa: BLE001 - no GPU, no driver, no library: each has its own error, and no tag is worth one
        return []


def counted(names: Sequence[str]) -> str:
    """8 x NVIDIA H100, 1 x NVIDIA T4."""
    return ", ".join(f"{count} x {name}" for name, count in Counter(names).items())
