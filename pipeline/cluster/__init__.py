"""Everything that calls Ray: start it, train on it, receive its events.

A worker calls `worker` for its link to the others; the rest runs in the driver. Ray Train resumes a run by its name
and storage alone, so the name identifies what is trained: the digest of parameters, data, anchors and code.

This module needs Ray alone, so that a Ray can be started while Ray Train and torch are imported, which takes as long:
those are in `training`, `worker` and `storage`.
"""

from __future__ import annotations

from pipeline.cli.stop import StoppedError
from pipeline.cluster.environment import worker_environment  # first: it sets variables that Ray reads on import
from pipeline.cluster.start import Resources, describe_cluster, start_ray
from pipeline.params.runtime import address_of, is_elsewhere

__all__ = [
    "Resources",
    "StoppedError",
    "address_of",
    "describe_cluster",
    "is_elsewhere",
    "start_ray",
    "worker_environment",
]
