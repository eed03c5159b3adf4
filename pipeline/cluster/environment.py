"""Environment variables of Ray and its workers; import this before Ray, which reads some on import."""

from __future__ import annotations

import os

# Read by Ray on import. The controller handles reports at the interval of its health check: with Ray's default of 2 s,
# every epoch waits 1.6 s on average.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# A CPU worker does not return freed memory to the system: new pages for every large tensor cost 6 % of a step. With a
# GPU the large tensors are in CUDA memory, and retained pages of images of many sizes would only fragment the host's.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**26)}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def worker_environment(cpus: int, gpus: float = 0) -> dict[str, str]:
    """Return the environment variables of a training process with that many threads and GPUs."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(cpus))  # of torch, and of hotcoco
    return QUIET | ({} if gpus else KEEP_MEMORY) | threads
