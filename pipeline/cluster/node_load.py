"""Load of a worker's node: CPU, memory, disk, network and GPUs, sampled in a thread and sent to the driver.

Names and units are those of MLflow's own monitors, which a worker cannot use: they write to the tracking server, which
may not be reachable from it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

INTERVAL_S = 10.0
FIRST_AFTER_S = 1.0  # psutil measures the CPU since its last call


class NodeLoad:
    """Samples this machine; network traffic counts from the start."""

    def __init__(self) -> None:
        psutil.cpu_percent()
        self._received, self._sent = traffic()

    def __call__(self) -> dict[str, float]:
        """Return the load since the last call: percentages, megabytes and watts."""
        memory, disk, (received, sent) = psutil.virtual_memory(), psutil.disk_usage(os.sep), traffic()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (received - self._received) / 1e6,
            "network_transmit_megabytes": (sent - self._sent) / 1e6,
            **gpu_load(),
        }


def traffic() -> tuple[int, int]:
    """Return the bytes that this machine has received and sent."""
    count = psutil.net_io_counters()
    return count.bytes_recv, count.bytes_sent


def gpu_load() -> dict[str, float]:
    """Return utilization, memory and power of each NVIDIA GPU; what its driver does not say is left out."""
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        try:
            gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            each = [load_of(gpu, pynvml) for gpu in gpus]
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # noqa: BLE001 - no GPU, no driver, no library: each has its own error
        return {}
    return {f"gpu_{i}_{name}": value for i, load in enumerate(each) for name, value in load.items()}


def load_of(gpu: Any, driver: Any) -> dict[str, float]:
    """Return the load of a GPU.

    Args:
        gpu: its handle.
        driver: the module pynvml, initialised.
    """
    load: dict[str, float] = {}
    with suppress(driver.NVMLError):
        memory = driver.nvmlDeviceGetMemoryInfo(gpu)
        load["memory_usage_percentage"] = 100 * memory.used / memory.total
        load["memory_usage_megabytes"] = memory.used / 1e6
    with suppress(driver.NVMLError):
        load["utilization_percentage"] = driver.nvmlDeviceGetUtilizationRates(gpu).gpu
    with suppress(driver.NVMLError):
        power, limit = driver.nvmlDeviceGetPowerUsage(gpu), driver.nvmlDeviceGetEnforcedPowerLimit(gpu)  # mW
        load["power_usage_watts"] = power / 1000
        load["power_usage_percentage"] = 100 * power / limit
    return load


def send_load(send_event: Callable[[dict[str, Any]], None], *, node: str, over: threading.Event | None = None) -> None:
    """Send a sample every 10 s from a thread that ends with this process; an error ends the samples alone.

    Args:
        send_event: sends without waiting.
        node: host name and address.
        over: ends the samples when it is set.
    """
    end = over or threading.Event()

    def sample() -> None:
        with suppress(Exception):  # no training fails for want of a curve
            load, pause_s = NodeLoad(), FIRST_AFTER_S
            while not end.wait(pause_s):
                send_event({"kind": "load", "node": node, "load": load()})
                pause_s = INTERVAL_S

    threading.Thread(target=sample, daemon=True, name="node load").start()
