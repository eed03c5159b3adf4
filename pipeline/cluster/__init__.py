"""The door to Ray: start it quietly, train on it, and hear from it while it works.

A worker asks `worker` for its link to the others; everything else happens in the driver. Ray Train resumes a run by
its name and storage alone, so the name must say what is trained: the digest of parameters, data, anchors and code.

Here stands what needs Ray alone, so that a Ray can be started while the rest is imported, which takes as long: Ray
Train and torch are in `training`, `worker` and `storage`.
"""

from __future__ import annotations

from pipeline.cli.stop import StoppedError
from pipeline.cluster.environment import worker_environment  # first: it sets what Ray reads when it is imported
from pipeline.cluster.start import Resources, address_of, describe_cluster, is_elsewhere, start_ray

__all__ = [
    "Resources",
    "StoppedError",
    "address_of",
    "describe_cluster",
    "is_elsewhere",
    "start_ray",
    "worker_environment",
]
