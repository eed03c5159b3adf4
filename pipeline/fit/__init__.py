"""The training of one worker: built from plain values, resumed from a checkpoint, reported epoch by epoch.

Who only says what the workers shall do imports neither the detector nor its libraries, which takes 5 s.
"""

from __future__ import annotations

from typing import Any


def fit(config: dict[str, Any]) -> None:
    """Train in this worker of Ray Train; all workers run it at once.

    Args:
        config: description (of the detector), params (as in params.yaml), place, data (train and val files and the
            root of the pictures), all plain values.
    """
    from pipeline.cluster.worker import worker
    from pipeline.fit.memory import picture_budget
    from pipeline.fit.work import load_splits, tell_memory, train_worker

    own = worker(config)
    keep_bytes = picture_budget(config, own)
    splits = load_splits(config, keep_bytes=keep_bytes)
    tell_memory(own, keep_bytes, *splits)
    train_worker(config, own, *splits)
