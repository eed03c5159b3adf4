"""A Ray on this machine, or a cluster's: started, checked, described."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.cluster.processors import count_cpus
from pipeline.cluster.shipping import ship_code
from pipeline.params.place import Place

# Of a Ray on this machine, with what its workers print.
LOGS = f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"


@dataclass(frozen=True)
class Resources:
    """What a training asks of the cluster.

    Attributes:
        workers: so many, or the fewest and the most: it begins with what is there, goes on with fewer when nodes
            leave, and takes up new ones.
        hang_timeout_s: a worker that gives no sign of life for so long is taken for dead.
        has_nodes: they may be told in advance that they end.
        verbose: what workers print and log is shown by this process.
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

    @classmethod
    def of(cls, place: Place) -> Resources:
        """What conf/ says of them."""
        values = place.model_dump(include=set(cls.__dataclass_fields__))
        return cls(**values, has_nodes=is_elsewhere(place.address))

    @property
    def fewest(self) -> int:
        """Workers without which it does not begin."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that it can make use of."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@contextmanager
def start_ray(
    address: str, resources: Resources, *, dashboard: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A Ray on this machine ("local"), or a cluster's; RAY_ADDRESS wins. What was started here is stopped.

    Args:
        dashboard: of a Ray that is started here; it cleans up after trainings that are stopped from outside.
        environment: variables of every process that works for this one.

    The nodes of a cluster get our code; see pipeline.cluster.shipping.

    Raises:
        ValueError: when the cluster does not have what the training asks for.
        RuntimeError: when there is no Ray at that address, or none can be started.
    """
    address = address_of(address)
    level = "INFO" if resources.verbose else "ERROR"
    options: dict[str, Any] = {"address": address, "log_to_driver": resources.verbose, "logging_level": level}
    if address == "local":
        # A machine with fewer cores than workers still trains, only slower.
        cpus = max(count_cpus(), resources.most * resources.cpus_per_worker)
        options |= {"num_cpus": cpus, "include_dashboard": dashboard}
    shipped = {"env_vars": dict(environment)} if environment else {}
    if is_elsewhere(address):
        shipped |= ship_code()
    options["runtime_env"] = shipped
    logging.getLogger("ray").setLevel(level)
    connect(options)
    try:
        if is_elsewhere(address):
            wait_for_nodes(resources)
        check_resources(resources)
        yield
    finally:
        ray.shutdown()


def connect(options: Mapping[str, Any]) -> None:
    """Call ray.init; a Ray of this machine that does not come up in time, as on a busy one, gets a second chance.

    Raises:
        RuntimeError: with one sentence.
    """
    is_ours = options["address"] == "local"
    try:
        try:
            ray.init(**options)
        except Exception as error:  # it raises bare ones
            if not is_ours or "timed out" not in str(error):
                raise
            ray.shutdown()
            print("Ray did not start in time on this machine; trying once more", flush=True)
            ray.init(**options)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        if is_ours:
            raise RuntimeError(f"Ray does not start on this machine ({reason}); its logs are in {LOGS}") from error
        raise RuntimeError(f"no Ray at {options['address']!r} (RAY_ADDRESS, or address in conf/): {reason}") from error


def address_of(address: str) -> str:
    """Where Ray is: RAY_ADDRESS, or else this address."""
    return os.environ.get("RAY_ADDRESS") or address


def is_elsewhere(address: str) -> bool:
    """Whether the workers may run on machines that do not see our files."""
    return address_of(address) != "local"


def wait_for_nodes(resources: Resources) -> None:
    """Give the nodes of a cluster that is coming up their time."""
    deadline, told = time.monotonic() + resources.start_timeout_s, False
    while list(missing(resources)) and time.monotonic() < deadline:
        if not told:
            print(f"waiting up to {resources.start_timeout_s:.0f} s for nodes to join the cluster", flush=True)
            told = True
        time.sleep(1)


def missing(resources: Resources) -> Iterator[tuple[str, float, float]]:
    """Kind of resource, what each worker needs, and what the cluster has, where that is too little."""
    there = ray.cluster_resources()
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        if resources.fewest * each > there.get(kind, 0):
            yield kind, each, there.get(kind, 0)


def check_resources(resources: Resources) -> None:
    """Refuse at once what Ray would wait for without end."""
    for kind, each, there in missing(resources):
        raise ValueError(
            f"{resources.fewest} workers of {each:g} {kind} need {resources.fewest * each:g}, "
            f"the cluster has {there:g}; lower workers in conf/ or add nodes"
        )


def describe_cluster() -> dict[str, Any]:
    """The Ray that was started or joined, in plain values: our job in it, and its living nodes.

    Returns:
        job: Ray's id of it; submission: the id of `ray job submit`, None without; nodes: host, address, resources
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
    """CPUs and GPUs of a node, and 1 of each type of GPU."""
    there = {kind.removeprefix("accelerator_type:"): count for kind, count in node["Resources"].items()}
    kinds = ["CPU", "GPU", *(kind for kind in there if f"accelerator_type:{kind}" in node["Resources"])]
    return {kind: there[kind] for kind in kinds if kind in there}
