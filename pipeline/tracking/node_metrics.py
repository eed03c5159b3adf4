"""System metrics of the nodes other than the driver's, named as MLflow does for a run on several nodes.

The code of its page expects `system/node_<number>/<metric>` and `system/node_<number>/gpu_<i>_<metric>`, so a tag tells
the node of each number.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pipeline.tracking.records import clean_tags
from pipeline.tracking.system_metrics import INTERVAL_S, is_switched_off

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

TAG = "system.node_"
"""Start of the tag that holds host and address of the node of a number, e.g. system.node_0."""
KEPT = 60
"""Samples of a node that wait while the store is away: those of ten minutes."""
MOST = 1000
"""Metrics of one request, MLflow's limit."""

Sample = tuple[int, Mapping[str, float]]
"""Time in ms, and metric -> value."""


class NodeMetrics:
    """Samples of all nodes, which are sent together."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[Sample]] = defaultdict(partial(deque, maxlen=KEPT))
        self._numbers: dict[str, int] = {}
        self._start_ms: int | None = None  # of the run; None: ask the store
        self._next_s = 0.0  # time.monotonic()

    def add(self, node: str, load: Mapping[str, float]) -> bool:
        """Keep a sample; return whether samples should be sent: once in 10 s, whatever the number of nodes.

        Args:
            node: host and address.
            load: metric -> value, named as by MLflow.
        """
        if is_switched_off():
            return False
        self._samples[node].append((int(time.time() * 1000), load))
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + INTERVAL_S
        return True

    @property
    def are_waiting(self) -> bool:
        """Whether there are samples to send."""
        return any(self._samples.values())

    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send all samples; those that arrive twice are one point in MLflow."""
        from mlflow.entities import RunTag

        if self._start_ms is None:
            self._continue(client, run_id)
        sent = {node: list(samples) for node, samples in self._samples.items() if samples}
        unknown = [node for node in sent if node not in self._numbers]
        if unknown:
            numbers = {node: number for number, node in enumerate(unknown, max(self._numbers.values(), default=-1) + 1)}
            tags = clean_tags({f"{TAG}{number}": node for node, number in numbers.items()})
            client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tags.items()])
            self._numbers |= numbers
        points = [point for node, samples in sent.items() for sample in samples for point in self._points(node, sample)]
        for first in range(0, len(points), MOST):
            client.log_batch(run_id, metrics=points[first : first + MOST])
        for node, samples in sent.items():
            waiting = [sample for sample in self._samples[node] if sample not in samples]
            self._samples[node] = deque(waiting, maxlen=KEPT)

    def _continue(self, client: MlflowClient, run_id: str) -> None:
        """Read the numbers that nodes have had before a resume, and the start of the run."""
        run = client.get_run(run_id)
        for key, node in run.data.tags.items():
            if key.startswith(TAG):
                self._numbers[node] = int(key.removeprefix(TAG))
        self._start_ms = run.info.start_time

    def _points(self, node: str, sample: Sample) -> list[Metric]:
        """Return the metrics of a sample; the step counts intervals since the start of the run."""
        from mlflow.entities import Metric

        assert self._start_ms is not None
        time_ms, load = sample
        step = max(0, int((time_ms - self._start_ms) / (1000 * INTERVAL_S)))
        prefix = f"system/node_{self._numbers[node]}"
        return [Metric(f"{prefix}/{name}", round(float(value), 1), time_ms, step) for name, value in load.items()]
