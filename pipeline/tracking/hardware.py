"""Hardware tags of a run: the driver's machine, and the nodes of the Ray cluster."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def hardware_tags() -> dict[str, str]:
    """Return CPU, cores, memory and GPUs of this machine; unknown ones are left out."""
    tags = {
        "hardware.cpu": cpu_model(),
        "hardware.cores": str(os.cpu_count() or ""),
        "hardware.memory": memory(),
        "hardware.gpu": counted(gpu_names()),
    }
    return {key: text for key, text in tags.items() if text}


def cluster_tags(cluster: Mapping[str, Any]) -> dict[str, str]:
    """Return Ray's job and the nodes at the start of the training.

    Args:
        cluster: from pipeline.cluster.describe_cluster: job, submission, and nodes with host, address and resources.
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
    """Format a node on one line: host, address, resources."""
    offers = ", ".join(f"{count:g} {kind}" for kind, count in node["resources"].items())
    return f"{node['host']} ({node['address']}): {offers}"


def cpu_model() -> str:
    """Return the CPU model as the system reports it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory() -> str:
    """Return the main memory, in GiB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes
    except (OSError, ValueError):
        return ""
    return f"{total / 2**30:.0f} GiB"


def gpu_names() -> list[str]:
    """Return the GPUs that NVIDIA's driver reports; unlike CUDA, this allocates no GPU memory."""
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
    """Format counts of names, e.g. 8 x NVIDIA H100, 1 x NVIDIA T4."""
    return ", ".join(f"{count} x {name}" for name, count in Counter(names).items())
