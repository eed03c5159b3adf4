"""System metrics of the driver's machine: CPU, memory, disk, network and GPU, by MLflow's monitor."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

INTERVAL_S = 10.0  # MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


def is_switched_off() -> bool:
    """Return whether MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false."""
    return os.environ.get(SWITCH, "true").lower() in ("false", "0")


class SystemMetrics:
    """Samples this machine for a run, in a thread of MLflow's; its errors stop nothing.

    Args:
        uri: of the store.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._monitor: SystemMetricsMonitor | None = None

    def keep(self, run_id: str | None) -> None:
        """Start sampling, also again after MLflow's thread has ended because the store was away.

        Does nothing if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false, or the run has no id yet.
        """
        if run_id is None or self.is_alive or is_switched_off():
            return
        # It prints three lines with addresses when the store is away; the outbox warns once.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        with suppress(Exception):  # system metrics must not stop a training
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(
                run_id, sampling_interval=INTERVAL_S, resume_logging=True, tracking_uri=self._uri
            )
            self._monitor.start()

    @property
    def is_alive(self) -> bool:
        """Whether sampling is running."""
        thread = self._monitor and self._monitor._process
        return bool(thread and thread.is_alive())

    def finish(self) -> None:
        """Stop sampling and send the last samples."""
        if self._monitor is not None:
            with suppress(Exception):
                self._monitor.finish()
        self._monitor = None
