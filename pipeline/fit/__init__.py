"""The training of one worker: build, resume from a checkpoint, train, report.

`fit` imports the detector and its libraries only when it runs, so that the driver, which passes the function on, does
not: that import takes 5 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.fit.config import WorkerConfig


def fit(loop_config: dict[str, Any]) -> None:
    """The training function of Ray Train; every worker runs it.

    Args:
        loop_config: as of pipeline.cluster.training.run_trainer: `config` is the WorkerConfig, the rest is the link to
            the driver.
    """
    from pipeline.cluster.worker import worker
    from pipeline.fit.loop import load_splits, report_memory, train_worker
    from pipeline.fit.memory import picture_budget

    config: WorkerConfig = loop_config["config"]
    own = worker(loop_config)
    keep_bytes = picture_budget(config, own)
    splits = load_splits(config.data, keep_bytes=keep_bytes)
    report_memory(own, keep_bytes, *splits)
    train_worker(config, own, *splits)
