"""What the machine does while a run works: CPU, memory, disk, network and GPU, by MLflow's own sampler."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

INTERVAL_S = 10.0  # MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL names another
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


class Sampler:
    """Samples the machine of this process for a run, in a thread of MLflow's; what goes wrong in it stops nothing.

    Args:
        uri: of the store.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._monitor: SystemMetricsMonitor | None = None

    def keep(self, run_id: str | None) -> None:
        """Sample from now on; also after MLflow's thread has given up because the store was away for a moment.

        Nothing happens where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false, or the run has no id yet.
        """
        if run_id is None or self.is_alive or os.environ.get(SWITCH, "true").lower() in ("false", "0"):
            return
        # Its lines on a store that is away come in threes, with addresses; the outbox says the same once.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
        with suppress(Exception):  # a curve of the CPU's load is worth no training
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(
                run_id, sampling_interval=INTERVAL_S, resume_logging=True, tracking_uri=self._uri
            )
            self._monitor.start()

    @property
    def is_alive(self) -> bool:
        """True while samples are taken."""
        thread = self._monitor and self._monitor._process
        return bool(thread and thread.is_alive())

    def finish(self) -> None:
        """Stop, and send the last samples."""
        if self._monitor is not None:
            with suppress(Exception):
                self._monitor.finish()
        self._monitor = None
