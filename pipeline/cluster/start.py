"""Start Ray on this machine or connect to a cluster; check and describe its resources."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.cluster.environment import worker_environment
from pipeline.cluster.placement import ACCELERATOR, offered, there_are, words
from pipeline.cluster.processors import count_cpus
from pipeline.cluster.runtime_env import code_environment
from pipeline.params.runtime import RuntimeConfig, address_of, is_elsewhere

# Of a local Ray, with the output of its workers.
LOGS = f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"


@dataclass(frozen=True)
class Resources:
    """Resources that a training requests from the cluster.

    Attributes:
        workers: their number, or the minimum and the maximum: training starts with the workers available, continues
            with fewer when nodes leave, and adds workers when nodes join.
        hang_timeout_s: a worker without a health check answer for this long is considered lost.
        has_nodes: workers run on cluster nodes, which may be preempted with notice.
        verbose: show the output and the logs of the workers.
        dashboard: run Ray's dashboard with a local Ray.
        accelerator_type: of the GPUs of the nodes on which workers run; None: any.
        labels: of those nodes; key -> Ray's selector.
        environment: variables of the workers, over ours.
    """

    workers: int | list[int]
    cpus_per_worker: int
    gpus_per_worker: float
    backend: str
    max_failures: int
    start_timeout_s: float
    hang_timeout_s: float = 600.0
    has_nodes: bool = False
    verbose: bool = False
    dashboard: bool = False
    accelerator_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> Resources:
        """Return the resources that conf/ requests."""
        values = runtime.model_dump(include=set(cls.__dataclass_fields__))
        return cls(**values, has_nodes=is_elsewhere(runtime.address))

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of a worker: ours, and those of conf/ over them."""
        return worker_environment(self.cpus_per_worker, self.gpus_per_worker) | dict(self.environment)

    @property
    def fewest(self) -> int:
        """Minimum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Maximum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@contextmanager
def start_ray(
    address: str, resources: Resources, *, dashboard: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start Ray on this machine ("local") or connect to a cluster; RAY_ADDRESS takes precedence. Disconnects at exit.

    The nodes of a cluster receive our code; see pipeline.cluster.runtime_env.

    Args:
        dashboard: run the dashboard of a local Ray, which cleans up after trainings that are stopped from outside.
        environment: variables of every worker process.

    Yields:
        The URL of the dashboard; empty where there is none, or none was asked for.

    Raises:
        ValueError: when the cluster lacks the resources that the training requests, or Ray its dashboard.
        RuntimeError: when there is no Ray at that address, or none can be started.
    """
    address = address_of(address)
    level = "INFO" if resources.verbose else "ERROR"
    options: dict[str, Any] = {"address": address, "log_to_driver": resources.verbose, "logging_level": level}
    if address == "local":
        # A machine with fewer cores than workers still trains, only slower.
        cpus = max(count_cpus(), resources.most * resources.cpus_per_worker)
        options |= {"num_cpus": cpus, "include_dashboard": dashboard or resources.dashboard}
        options |= {"dashboard_host": "127.0.0.1"}
        if resources.dashboard:
            check_dashboard()
    runtime_env: dict[str, Any] = {"env_vars": dict(environment)} if environment else {}
    if dashboard:
        runtime_env |= {"worker_process_setup_hook": hook_for_state_api()}
    if is_elsewhere(address):
        runtime_env |= code_environment()
    options["runtime_env"] = runtime_env
    logging.getLogger("ray").setLevel(level)
    url = connect(options)
    try:
        if is_elsewhere(address):
            wait_for_nodes(resources)
        check_resources(resources)
        if not (resources.dashboard or is_elsewhere(address)):
            url = ""
        if url:
            print(f"Ray's dashboard: {url}", flush=True)
        yield url
    finally:
        ray.shutdown()


def hook_for_state_api() -> Callable[[], None]:
    """Return what each worker process runs first: it sets RAY_ADDRESS to its own Ray.

    Ray's cleaner of placement groups asks the state API, which looks for the Ray of the machine. Where there are two,
    for instance a training beside a sweep, it fails, and the next trial waits for the CPUs of a stopped one forever.
    """

    def set_own_address() -> None:  # local, so that it is pickled by value: a worker need not import this module
        import os

        import ray

        os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)

    return set_own_address


def check_dashboard() -> None:
    """Raise ValueError where the packages of Ray's dashboard are not installed."""
    try:
        from ray.dashboard import optional_deps  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"dashboard is true in conf/, but the package {error.name} of Ray's dashboard is missing; install "
            f'"ray[default]=={ray.__version__}", or set dashboard: false'
        ) from None


def connect(options: Mapping[str, Any]) -> str:
    """Call ray.init and return the dashboard's URL; retry once when a local Ray times out, as on a busy machine.

    Raises:
        RuntimeError: when there is no Ray at the address, or a local one does not start.
    """
    is_ours = options["address"] == "local"
    try:
        try:
            context = ray.init(**options)
        except Exception as error:  # ray.init raises bare exceptions
            if not is_ours or "timed out" not in str(error):
                raise
            ray.shutdown()
            print("Ray did not start in time on this machine; trying once more", flush=True)
            context = ray.init(**options)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        if is_ours:
            raise RuntimeError(f"Ray does not start on this machine ({reason}); its logs are in {LOGS}") from error
        raise RuntimeError(f"no Ray at {options['address']!r} (RAY_ADDRESS, or address in conf/): {reason}") from error
    url: str = context.dashboard_url or ""
    return url if "://" in url or not url else f"http://{url}"


def wait_for_nodes(resources: Resources) -> None:
    """Wait until a starting cluster has enough nodes, at most start_timeout_s."""
    deadline, told = time.monotonic() + resources.start_timeout_s, False
    while list(missing(resources)) and time.monotonic() < deadline:
        if not told:
            print(f"waiting up to {resources.start_timeout_s:.0f} s for nodes to join the cluster", flush=True)
            told = True
        time.sleep(1)


def missing(resources: Resources) -> Iterator[tuple[str, float, float]]:
    """Yield each insufficient resource: kind, demand per worker, amount in the cluster."""
    there = offered(resources.accelerator_type, resources.labels)
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        if resources.fewest * each > there.get(kind, 0):
            yield kind, each, there.get(kind, 0)


def check_resources(resources: Resources) -> None:
    """Raise ValueError for a request that Ray would wait for forever."""
    for kind, each, there in missing(resources):
        asked = resources.accelerator_type, resources.labels
        chosen = words(*asked)
        if chosen and not offered(*asked):
            raise ValueError(
                f"no node of the cluster has {chosen} ({there_are(*asked)}); change conf/ or add such nodes"
            )
        holder = f"the nodes with {chosen} have" if chosen else "the cluster has"
        need = f"{resources.fewest} workers with {each:g} {kind} each need {resources.fewest * each:g}"
        raise ValueError(f"{need}, but {holder} {there:g}; lower workers in conf/ or add nodes")


def describe_cluster() -> dict[str, Any]:
    """Describe the connected cluster in plain values: our job, and its living nodes.

    Returns:
        job: Ray's job id; submission: the id of `ray job submit`, None without it; nodes: host, address, resources
        (CPUs, GPUs and their type).
    """
    submission = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata") or {}
    nodes = [
        {"host": node["NodeManagerHostname"], "address": node["NodeManagerAddress"], "resources": hardware_of(node)}
        for node in ray.nodes()
        if node["Alive"]
    ]
    job: str = ray.get_runtime_context().get_job_id()
    return {"job": job, "submission": submission.get("job_submission_id"), "nodes": nodes}


def hardware_of(node: Mapping[str, Any]) -> dict[str, float]:
    """Return the CPUs and GPUs of a node, and 1 for each type of GPU."""
    there = {kind.removeprefix(ACCELERATOR): count for kind, count in node["Resources"].items()}
    kinds = ["CPU", "GPU", *(kind for kind in there if f"{ACCELERATOR}{kind}" in node["Resources"])]
    return {kind: there[kind] for kind in kinds if kind in there}
