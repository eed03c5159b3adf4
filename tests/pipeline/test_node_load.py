"""Laws of a worker's samples of its node: MLflow's metrics without MLflow, one sender per node, no error."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import ray.train
import ray.train.torch

from pipeline.cluster import node_load, training, worker
from pipeline.cluster.node_load import NodeLoad, send_load


class NVMLError(Exception):
    """Stands for the error of NVIDIA's driver."""


def fail(gpu: int) -> Any:
    raise NVMLError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two GPUs of 80 GB: one half used at 300 of 400 W, one idle."""
    driver = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=(40e9, 0)[gpu], total=80e9),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=(97, 0)[gpu]),
        nvmlDeviceGetPowerUsage=lambda gpu: (300_000, 60_000)[gpu],  # mW
        nvmlDeviceGetEnforcedPowerLimit=lambda gpu: 400_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


def test_load_of_two_gpus(gpus: SimpleNamespace) -> None:
    load = NodeLoad()()
    assert {name.removeprefix("gpu_0_"): value for name, value in load.items() if name.startswith("gpu_0_")} == {
        "memory_usage_percentage": 50,
        "memory_usage_megabytes": 40_000,
        "utilization_percentage": 97,
        "power_usage_watts": 300,
        "power_usage_percentage": 75,
    }
    assert load["gpu_1_utilization_percentage"] == 0 and load["gpu_1_power_usage_percentage"] == 15


def test_what_a_gpu_does_not_say_is_left_out(gpus: SimpleNamespace) -> None:
    gpus.nvmlDeviceGetPowerUsage = fail
    load = NodeLoad()()
    assert "gpu_0_power_usage_watts" not in load and load["gpu_0_utilization_percentage"] == 97


def test_machine_without_gpu_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    load = NodeLoad()()
    assert not [name for name in load if name.startswith("gpu_")]
    assert 0 < load["system_memory_usage_percentage"] < 100


def test_names_and_values_are_those_of_mlflows_monitors(gpus: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics import gpu_monitor
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    traffic = [SimpleNamespace(bytes_recv=1_000_000, bytes_sent=2_000_000)]
    monkeypatch.setattr(psutil, "net_io_counters", lambda: traffic[-1])
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 12.5)
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "disk_usage", lambda path: disk)
    monkeypatch.setattr(gpu_monitor, "pynvml", gpus)
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), gpu_monitor.GPUMonitor()]
    load = NodeLoad()
    traffic.append(SimpleNamespace(bytes_recv=31_000_000, bytes_sent=2_500_000))
    theirs: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        theirs |= monitor.aggregate_metrics()
    ours = load()
    assert {name: round(value, 1) for name, value in ours.items()} == {
        name: round(value, 1) for name, value in theirs.items()
    }
    assert (ours["network_receive_megabytes"], ours["network_transmit_megabytes"]) == (30.0, 0.5)


# ---- the sender ------------------------------------------------------------------------------------------------------


def test_samples_are_sent_from_a_thread_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_load, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(node_load, "INTERVAL_S", 0.01)
    events: list[dict[str, Any]] = []
    over, enough = threading.Event(), threading.Event()

    def send(event: dict[str, Any]) -> None:
        events.append(event)
        if len(events) == 3:
            enough.set()

    send_load(send, node="a (10.0.0.2)", over=over)
    (thread,) = (each for each in threading.enumerate() if each.name == "node load")
    assert thread.daemon  # it ends with its worker
    assert enough.wait(timeout=10)
    over.set()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert {(event["kind"], event["node"]) for event in events} == {("load", "a (10.0.0.2)")}
    assert "cpu_utilization_percentage" in events[0]["load"]


def test_samples_are_seconds_apart() -> None:
    assert node_load.INTERVAL_S >= 5


def test_sample_that_fails_ends_the_samples_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_load, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: 1 / 0)
    events: list[dict[str, Any]] = []
    send_load(events.append, node="a")
    for thread in threading.enumerate():
        if thread.name == "node load":
            thread.join(timeout=10)
            assert not thread.is_alive()
    assert events == []  # and no warning of a thread's exception, which would be an error here


@pytest.mark.parametrize(
    ("node", "local_rank", "sent"),
    [("far", 0, ["host-far (10.0.0.2)"]), ("far", 1, []), ("near", 0, []), ("near", 1, [])],
)
def test_first_worker_of_each_node_but_the_drivers_sends(
    node: str, local_rank: int, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace(
        get_local_rank=lambda: local_rank,
        get_world_rank=lambda: 3,
        get_world_size=lambda: 4,
        get_local_world_size=lambda: 2,
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: "cpu")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: node))
    nodes = [
        {"NodeID": name, "NodeManagerHostname": f"host-{name}", "NodeManagerAddress": address}
        for name, address in (("near", "10.0.0.1"), ("far", "10.0.0.2"))
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    started: list[str] = []
    monkeypatch.setattr(worker, "send_load", lambda send_event, *, node: started.append(node))
    link = {"_events": None, "_stop": None, "_has_nodes": True, "_checkpoints": None, "_driver_node": "near"}
    worker.worker(link)
    assert started == sent


@pytest.mark.parametrize(("through_client", "expected"), [(False, "near"), (True, None)])
def test_driver_beyond_a_client_connection_is_on_no_node(
    through_client: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: through_client)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "near"))
    assert training.driver_node() == expected
