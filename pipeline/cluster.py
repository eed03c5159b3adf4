"""The door to Ray: start it quietly, train on it, and hear from it while it works.

A worker asks `worker` for its link to the others; everything else happens in the driver. Ray Train resumes a run by
its name and storage alone, so the name must say what is trained: the digest of parameters, data, anchors and code.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# A worker keeps the memory that it was given: fresh pages for every large tensor cost 6 % of a step on a CPU.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**26)}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  # the environment comes first
import ray.train  # noqa: E402
import ray.train.torch  # noqa: E402
from ray.util.queue import Empty, Queue  # noqa: E402

# The user's mistake, and a training that diverges: their sentence says it all.
COMPLAINTS = (ValueError, FloatingPointError)


@dataclass(frozen=True)
class Resources:
    """What a training asks of the cluster."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    backend: str
    max_failures: int
    start_timeout_s: float


WriteCheckpoint = Callable[[Path], None]
"""Fills a folder."""


@dataclass(frozen=True)
class Worker:
    """What a worker knows of itself, and its link to who runs it.

    Attributes:
        tell: send the driver an event between two reports, without waiting.
        report: in every worker, at the same time: end an epoch with metrics and, from the first worker, a checkpoint.
        last_checkpoint: the folder of the newest checkpoint of this run, None where there is none.
    """

    rank: int
    num_workers: int
    device: Any
    tell: Callable[[dict[str, Any]], None]
    report: Callable[[dict[str, Any], WriteCheckpoint | None], None]
    last_checkpoint: Callable[[], AbstractContextManager[Path | None]]


@dataclass(frozen=True)
class Outcome:
    """What a finished training reported: with its best checkpoint by the score, and with its newest."""

    metrics: dict[str, Any]
    last_metrics: dict[str, Any]


@contextmanager
def start_ray(
    address: str, resources: Resources, *, dashboard: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A Ray on this machine ("local"), or a cluster's; RAY_ADDRESS wins. What was started here is stopped.

    Args:
        dashboard: of a Ray that is started here; it cleans up after trainings that are stopped from outside.
        environment: variables of every process that works for this one.

    Raises:
        ValueError: when the cluster does not have what the training asks for.
        RuntimeError: when there is no Ray at that address, or none can be started.
    """
    address = address_of(address)
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # A machine with fewer cores than workers still trains, only slower.
        cpus = max(os.cpu_count() or 1, resources.workers * resources.cpus_per_worker)
        options |= {"num_cpus": cpus, "include_dashboard": dashboard}
    if environment:
        options["runtime_env"] = {"env_vars": dict(environment)}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(**options)
    except Exception as error:  # it raises bare ones, too
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(f"no Ray at {address!r} (RAY_ADDRESS, or address in conf/): {reason}") from error
    try:
        check_resources(resources)
        yield
    finally:
        ray.shutdown()


def worker_environment(cpus: int) -> dict[str, str]:
    """Variables of a process that trains with so many threads."""
    return QUIET | KEEP_MEMORY | {"OMP_NUM_THREADS": str(cpus)}


def address_of(address: str) -> str:
    """Where Ray is: RAY_ADDRESS, or else this address."""
    return os.environ.get("RAY_ADDRESS") or address


def check_resources(resources: Resources) -> None:
    """Refuse at once what Ray would wait for without end."""
    there = ray.cluster_resources()
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        needed = resources.workers * each
        if needed > there.get(kind, 0):
            raise ValueError(
                f"{resources.workers} workers of {each:g} {kind} need {needed:g}, "
                f"the cluster has {there.get(kind, 0):g}; lower workers in conf/ or add nodes"
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


def train(
    fit: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    *,
    address: str,
    resources: Resources,
    name: str,
    storage: str,
    score: str,
    on_event: Callable[[dict[str, Any]], None],
    export: Callable[[Path], object],
) -> Outcome:
    """Run `fit` on the workers, from the last checkpoint of a run of that name where there is one.

    Args:
        fit: runs in every worker with `config`.
        address: see start_ray.
        storage: folder or URL; the run lies in <storage>/<name>.
        score: the metric whose best checkpoint is kept beside the newest.
        on_event: called in this process first with the cluster (describe_cluster), then with every report, and with
            what the first worker tells in between.
        export: called in this process with the folder of the best checkpoint.

    Raises:
        RuntimeError: with the worker's own error, when the training failed for good.
    """
    with start_ray(address, resources):
        on_event({"kind": "cluster", **describe_cluster()})
        result = run_trainer(
            fit, config, resources=resources, name=name, storage=storage, score=score, on_event=on_event
        )
        checkpoint, metrics = max(result.best_checkpoints, key=lambda pair: pair[1][score])
        # Ray moves the files; where the storage is elsewhere, this downloads them.
        with checkpoint.as_directory() as folder:
            export(Path(folder))
    return Outcome(dict(metrics), dict(result.metrics))


def run_trainer(
    fit: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    *,
    resources: Resources,
    name: str,
    storage: str,
    score: str,
    on_event: Callable[[dict[str, Any]], None],
) -> ray.train.Result:
    """Ray Train's own call; see train."""
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(resources.start_timeout_s)  # Ray takes it here only
    events = Queue(actor_options={"num_cpus": 0})
    trainer = ray.train.torch.TorchTrainer(
        fit,
        train_loop_config={**config, "_events": events},
        torch_config=ray.train.torch.TorchConfig(backend=resources.backend),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={"CPU": resources.cpus_per_worker}
            | ({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures, controller_failure_limit=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=score),
            callbacks=[Forward(events)],
            worker_runtime_env={"env_vars": worker_environment(resources.cpus_per_worker)},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with listening(events, on_event):
        try:
            return trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(f"training failed: {first_cause(error)}") from error


class Forward(ray.train.UserCallback):  # type: ignore[misc]  # ray has no types
    """Hands every report on to the driver; it runs in Ray's controller, after the checkpoint is in the storage."""

    def __init__(self, events: Queue) -> None:
        self.events = events
        self._seen: set[str] = set()

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """One event per report, with the first worker's metrics: they are the same on all."""
        # An exception here would end the training, and an event is not worth that.
        self.events.actor.put_nowait.remote({"kind": "report", **metrics[0]})

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """End the training, by an exception, at a complaint that has come before: it would come with every new try."""
        cause = own_error(worker_exceptions)
        if isinstance(cause, COMPLAINTS) and str(cause) in self._seen:
            raise cause
        self._seen.add(str(cause))


@contextmanager
def listening(events: Queue, on_event: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Pass events to a function while the body runs, and those that are left when it ends."""
    done = threading.Event()

    def listen() -> None:
        while True:
            try:
                event = events.get(timeout=0.2)
            except Empty:
                if done.is_set():
                    return
            except ray.exceptions.RayError:
                return
            else:
                on_event(event)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)


def first_cause(error: BaseException) -> str:
    """What failed: one sentence for the user's mistake, Ray's whole account for anything else."""
    cause = own_error(getattr(error, "worker_failures", {})) or getattr(error, "controller_failure", error)
    return str(cause if isinstance(cause, COMPLAINTS) else error).strip()


def own_error(failures: Mapping[int, BaseException]) -> BaseException | None:
    """The exception that a worker raised itself, a complaint first: the others fail because that one left them."""
    # Ray wraps it in one whose text is the traceback.
    causes = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
    return next((cause for cause in causes if isinstance(cause, COMPLAINTS)), causes[0] if causes else None)


def worker(config: Mapping[str, Any]) -> Worker:
    """In a worker of Ray Train: who am I. Also quiets Ray's own word on every report."""
    from ray.train.v2._internal.execution import context as reports

    logging.getLogger(reports.__file__).setLevel(logging.WARNING)
    context = ray.train.get_context()
    return Worker(
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        device=ray.train.torch.get_device(),
        tell=lambda event: config["_events"].actor.put_nowait.remote(event),
        report=report,
        last_checkpoint=last_checkpoint,
    )


def report(metrics: dict[str, Any], write_checkpoint: WriteCheckpoint | None) -> None:
    """See Worker.report."""
    if write_checkpoint is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


@contextmanager
def last_checkpoint() -> Iterator[Path | None]:
    """See Worker.last_checkpoint."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)
