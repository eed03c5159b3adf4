"""The door to Ray: start it quietly, train on it, and hear from it while it works.

A worker asks `worker` for its link to the others; everything else happens in the driver. Ray Train resumes a run by
its name and storage alone, so the name must say what is trained: the digest of parameters, data, anchors and code.
"""

from __future__ import annotations

from pipeline.cluster.environment import worker_environment  # first: it sets what Ray reads when it is imported
from pipeline.cluster.start import Resources, address_of, describe_cluster, is_elsewhere, start_ray
from pipeline.cluster.stopping import StoppedError
from pipeline.cluster.storage import Checkpoints, WriteCheckpoint
from pipeline.cluster.training import run_trainer, train
from pipeline.cluster.worker import Worker, worker

__all__ = [
    "Checkpoints",
    "Resources",
    "StoppedError",
    "Worker",
    "WriteCheckpoint",
    "address_of",
    "describe_cluster",
    "is_elsewhere",
    "run_trainer",
    "start_ray",
    "train",
    "worker",
    "worker_environment",
]
