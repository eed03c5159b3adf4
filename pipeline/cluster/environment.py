"""The variables of Ray and of those who work for it; imported before Ray, which reads some when it is imported."""

from __future__ import annotations

import os

# Read by Ray when it is imported. The health check is also the pulse of `report`: at 2 s, Ray's own, every epoch waits
# 1.6 s on average.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# A worker on CPUs keeps the memory that it was given: fresh pages for every large tensor cost 6 % of a step. With a GPU
# the large tensors are in CUDA's memory, and kept pages of images of many sizes would only fragment the host's.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**26)}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def worker_environment(cpus: int, gpus: float = 0) -> dict[str, str]:
    """Variables of a process that trains with so many threads, and so many GPUs."""
    return QUIET | ({} if gpus else KEEP_MEMORY) | {"OMP_NUM_THREADS": str(cpus)}
