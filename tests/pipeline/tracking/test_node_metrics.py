"""Laws of the load of nodes: MLflow's names with a number per node, which a resume keeps; few requests, no loss."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from pipeline.tracking import node_metrics
from pipeline.tracking.node_metrics import KEPT, NodeMetrics
from pipeline.tracking.system_metrics import SWITCH
from pipeline.train.run import Listener

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LOAD = {"cpu_utilization_percentage": 12.34, "gpu_1_utilization_percentage": 56}


class Clock:
    """Stands for the module time."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def time(self) -> float:
        return self.seconds

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.delenv(SWITCH, raising=False)
    clock = Clock()
    monkeypatch.setattr(node_metrics, "time", clock)
    return clock


def test_nodes_have_the_names_that_mlflows_page_expects(tracker: Any, clock: Clock) -> None:
    run = tracker.begin()
    clock.seconds = time.time()
    run.log_node_load("gpu-1 (10.0.0.2)", LOAD)
    clock.seconds += 20
    run.log_node_load("gpu-2 (10.0.0.3)", LOAD)
    run.finish()
    data = tracker.client().get_run(run.run_id).data
    assert data.tags["system.node_0"] == "gpu-1 (10.0.0.2)"
    assert data.tags["system.node_1"] == "gpu-2 (10.0.0.3)"
    names = {name for name in data.metrics if name.startswith("system/")}
    assert names == {f"system/node_{node}/{name}" for node in (0, 1) for name in LOAD}
    # The expression in the JavaScript of MLflow's page.
    assert all(re.match(r"system/node_(\d+)(?:/gpu_(\d+))?", name) for name in names)
    assert data.metrics["system/node_0/cpu_utilization_percentage"] == 12.3
    ((first, _),) = tracker.curve(run, "system/node_0/cpu_utilization_percentage")
    ((second, _),) = tracker.curve(run, "system/node_1/cpu_utilization_percentage")
    assert (first, second) == (0, 2)  # 0 s and 20 s after the start, in intervals of 10 s


def test_resumed_run_keeps_the_numbers_of_its_nodes(tracker: Any, clock: Clock) -> None:
    run = tracker.begin()
    clock.seconds = time.time()
    run.log_node_load("a (10.0.0.2)", LOAD)
    run.finish("KILLED")
    clock.seconds += 100
    resumed = tracker.begin(run.run_id)
    resumed.log_node_load("b (10.0.0.3)", LOAD)
    clock.seconds += 10
    resumed.log_node_load("a (10.0.0.2)", LOAD)
    resumed.finish()
    tags = tracker.client().get_run(run.run_id).data.tags
    assert (tags["system.node_0"], tags["system.node_1"]) == ("a (10.0.0.2)", "b (10.0.0.3)")
    assert [step for step, _ in tracker.curve(run, "system/node_0/cpu_utilization_percentage")] == [0, 11]


class Client:
    """Stands for MLflow's client; notes the size of every request."""

    def __init__(self) -> None:
        self.requests: list[int] = []

    def get_run(self, run_id: str) -> Any:
        return type("Run", (), {"info": type("Info", (), {"start_time": 0}), "data": type("Data", (), {"tags": {}})})

    def log_batch(self, run_id: str, metrics: Any = (), tags: Any = ()) -> None:
        if metrics:
            self.requests.append(len(metrics))


def test_samples_of_many_nodes_are_sent_together_every_ten_seconds(clock: Clock) -> None:
    load = {f"gpu_{i}_utilization_percentage": 1.0 for i in range(50)}
    nodes, client, sends = NodeMetrics(), Client(), 0
    for _ in range(60):  # a minute
        for node in range(64):
            if nodes.add(f"node {node}", load):
                nodes.send(client, "id")  # type: ignore[arg-type]
                sends += 1
            clock.seconds += 1 / 64
    nodes.send(client, "id")  # type: ignore[arg-type]
    assert sends == 6
    assert max(client.requests) == 1000  # MLflow's limit
    assert sum(client.requests) == 60 * 64 * 50
    assert not nodes.are_waiting


def test_samples_wait_for_ten_minutes_while_the_store_is_away(clock: Clock) -> None:
    nodes, client = NodeMetrics(), Client()
    for _ in range(500):
        nodes.add("a", LOAD)
        clock.seconds += 10
    nodes.send(client, "id")  # type: ignore[arg-type]
    assert client.requests == [KEPT * len(LOAD)]


def test_last_samples_are_sent_at_the_end(tracker: Any, clock: Clock) -> None:
    run = tracker.begin()
    for value in (1.0, 2.0):
        run.log_node_load("a", {"cpu_utilization_percentage": value})
        clock.seconds += 5
    assert [value for _, value in tracker.curve(run, "system/node_0/cpu_utilization_percentage")] == [1.0]
    run.finish()
    assert [value for _, value in tracker.curve(run, "system/node_0/cpu_utilization_percentage")] == [1.0, 2.0]


def test_load_is_not_logged_where_system_metrics_are_switched_off(
    tracker: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "false")
    run = tracker.begin()
    run.log_node_load("a", LOAD)
    run.finish()
    assert not [name for name in tracker.client().get_run(run.run_id).data.metrics if name.startswith("system/")]


def test_driver_hands_the_load_of_a_node_to_its_run() -> None:
    noted = []

    class Run:
        run_id = None

        def log_node_load(self, *sample: Any) -> None:
            noted.append(sample)

    listener = Listener(Run(), folder=None, progress=None, sample_images=None)  # type: ignore[arg-type]
    listener({"kind": "load", "node": "a (10.0.0.2)", "load": LOAD})
    assert noted == [("a (10.0.0.2)", LOAD)]
