"""Run Ray Train from the driver: start it, receive its events, classify its errors."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import OutOfMemoryError

from pipeline.cli.stop import STOPPED, StoppedError
from pipeline.cluster.placement import bundle
from pipeline.cluster.signals import catch_stop_signals, run_until_stopped
from pipeline.cluster.start import Resources, describe_cluster
from pipeline.cluster.storage import Checkpoints

# A user's mistake, and a training that diverges: the message suffices, without a traceback.
USER_ERRORS = (ValueError, FloatingPointError)

Exported = TypeVar("Exported")


class Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]  # ray has no types
    """TorchTrainer without the actor for Ray Data, which we do not use; it takes 3.1 s of CPU time to start.

    The private parts of Ray that are used here are listed in tests/private_parts.py.
    """

    needless: tuple[type, ...] = (DatasetsCallback,)

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, self.needless)]


class LocalTrainer(Trainer):
    """Trainer for a local Ray, which ends with this process: no cleaner of placement groups and no autoscaler."""

    needless = (DatasetsCallback, PlacementGroupCleanerCallback)

    def _initialize_and_run_controller(self, *, scaling_policy: Any, **arguments: Any) -> ray.train.Result:
        if isinstance(scaling_policy, FixedScalingPolicy):
            scaling_policy = FixedWorkers(scaling_policy.scaling_config)
        return super()._initialize_and_run_controller(scaling_policy=scaling_policy, **arguments)


class FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]  # ray has no types
    """A fixed number of workers, without the actor that asks an autoscaler for nodes, 3.5 s of CPU time to start."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Do not start the autoscaling coordinator."""

    def _maybe_send_resource_request(self) -> None:
        pass


def train_on_ray(
    fit: Callable[[dict[str, Any]], None],
    config: object,
    *,
    resources: Resources,
    name: str,
    storage: str,
    on_event: Callable[[dict[str, Any]], None],
    export: Callable[[Path], Exported],
    max_hours: float | None = None,
) -> Exported:
    """Run `fit` on the workers of the connected Ray, and resume from the last checkpoint of that run if there is one.

    Args:
        fit: runs in every worker with a dictionary that holds `config` under this name, which can be pickled.
        storage: folder or URL; the run lies in <storage>/<name>.
        on_event: called in this process, first with the cluster (describe_cluster), then with every report and every
            event of a worker.
        export: called in this process with the folder of the newest checkpoint.
        max_hours: since the start of the command; then it is stopped as by SIGTERM. None: no limit.

    Returns:
        The result of `export`.

    Raises:
        StoppedError: when SIGTERM, Ctrl-C or max_hours has stopped it; the next run resumes from there.
        RuntimeError: with the worker's own error, when all retries have failed.
        torch.OutOfMemoryError: when the images of a worker do not fit its memory.
    """

    def warn(text: str) -> None:
        on_event({"kind": "warning", "text": text})

    with catch_stop_signals(max_hours) as stop_requested:
        on_event({"kind": "cluster", **describe_cluster()})
        checkpoints = Checkpoints.of(storage, name)
        try:
            run_trainer(
                fit,
                config,
                resources=resources,
                name=name,
                storage=storage,
                on_event=on_event,
                stop_requested=stop_requested,
                lasting=resources.has_nodes,
            )
        except OutOfMemoryError:
            if not stop_requested.is_set():
                raise
        newest = checkpoints.newest(warn)
        if stop_requested.is_set():
            limit = f" ({stop_requested.reason})" if stop_requested.reason else ""
            raise StoppedError((STOPPED if newest else "stopped before the first checkpoint; run again") + limit)
        if newest is None:
            raise RuntimeError(f"no checkpoint could be written to {storage}; see the warnings above")
        # Downloads the files if the storage is remote.
        with checkpoints.opened(newest) as folder:
            return export(folder)


def run_trainer(
    fit: Callable[[dict[str, Any]], None],
    config: object,
    *,
    resources: Resources,
    name: str,
    storage: str,
    on_event: Callable[[dict[str, Any]], None],
    stop_requested: threading.Event | None = None,
    lasting: bool = True,
) -> ray.train.Result:
    """Configure and run Ray Train; see train_on_ray.

    Args:
        stop_requested: when it is set, the workers write a checkpoint and stop.
        lasting: whether Ray outlives this process, and must remove its workers when it dies.
    """
    checkpoints = Checkpoints.of(storage, name)
    checkpoints.repair_snapshot(lambda text: on_event({"kind": "warning", "text": text}))
    # Environment variables are the only way to set these.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(resources.start_timeout_s)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(resources.hang_timeout_s)
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(resources.has_nodes))
    events, stop = create_event_queue(), create_event_queue()
    link = {"_events": events, "_stop": stop, "_has_nodes": resources.has_nodes, "_checkpoints": checkpoints}
    link |= {"_driver_node": driver_node()}
    trainer = (Trainer if lasting else LocalTrainer)(
        fit,
        train_loop_config={"config": config, **link},
        torch_config=ray.train.torch.TorchConfig(backend=resources.backend, timeout_s=resources.hang_timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.most if resources.fewest == resources.most else (resources.fewest, resources.most),
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=bundle(resources.cpus_per_worker, resources.gpus_per_worker),
            accelerator_type=resources.accelerator_type,
            label_selector=dict(resources.labels) or None,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures, controller_failure_limit=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[ReportForwarder(events)],
            worker_runtime_env={"env_vars": resources.variables},
            logging_config=ray.train.LoggingConfig(log_level="INFO" if resources.verbose else "ERROR"),
        ),
    )
    with receive_events(events, on_event) as last_report:
        try:
            result = run_until_stopped(trainer.fit, stop_requested or threading.Event(), lambda: stop.put(True))
            last_report.wait_for(result.metrics)
            return result
        except ray.train.TrainingFailedError as error:
            cause = cause_of(error)
            if isinstance(cause, OutOfMemoryError):
                raise cause from error
            raise RuntimeError(f"training failed: {first_cause(error)}") from cause


def driver_node() -> str | None:
    """Return the id of this process's node; None where it is on none, but connected through ray://."""
    return None if ray.util.client.ray.is_connected() else ray.get_runtime_context().get_node_id()


def create_event_queue() -> Queue:
    """Return a queue on the driver's node, so that it survives the loss of any other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


class ReportForwarder(ray.train.UserCallback):  # type: ignore[misc]  # ray has no types
    """Forwards every report to the driver; runs in Ray's controller, after the checkpoint has been stored."""

    def __init__(self, events: Queue) -> None:
        self.events = events
        self._seen: set[str] = set()

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Send one event per report, with the first worker's metrics, which are equal on all workers."""
        # Not awaited: an exception here would end the training.
        self.events.actor.put_nowait.remote({"kind": "report", **metrics[0]})

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise to end the training if a retry would fail in the same way."""
        cause = worker_error(worker_exceptions)
        if isinstance(cause, OutOfMemoryError) or (isinstance(cause, USER_ERRORS) and str(cause) in self._seen):
            raise cause
        self._seen.add(str(cause))


class LastReport:
    """The last report received; it comes from another process, perhaps after the training has ended."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.news = threading.Condition()

    def note(self, event: Mapping[str, Any]) -> None:
        """Record that an event has been handled."""
        if event["kind"] == "report":
            with self.news:
                self.step = event["step"]
                self.news.notify_all()

    def wait_for(self, metrics: Mapping[str, Any] | None) -> None:
        """Wait up to 2 s for the report with these metrics; a training with nothing left to do sends none."""
        step = (metrics or {}).get("step")
        with self.news:
            self.news.wait_for(lambda: self.step == step, timeout=2.0)


@contextmanager
def receive_events(events: Queue, on_event: Callable[[dict[str, Any]], None]) -> Iterator[LastReport]:
    """Pass events to `on_event` while the body runs, and the remaining ones when it ends.

    A failure of `on_event` prints a warning, once for each reason; later events are still passed on.
    """
    done, last_report = threading.Event(), LastReport()
    reasons: set[str] = set()

    def handle(event: dict[str, Any]) -> None:
        try:
            on_event(event)
        except Exception as error:  # noqa: BLE001  # a failing storage or tracker costs one event, not the rest
            reason = f"{type(error).__name__}: {error}"
            if reason not in reasons:
                lost = f"an event of kind {event['kind']} was lost ({reason})"
                print(f"warning: {lost}; later events are still processed", flush=True)
                if not isinstance(error, OSError | ValueError):  # a bug, not an error of the storage
                    traceback.print_exception(error)
            reasons.add(reason)

    def listen() -> None:
        while True:
            try:
                event = events.get(timeout=1.0)
            except Empty:
                if done.is_set():
                    return
            except ray.exceptions.RayError:
                return
            else:
                handle(event)
                last_report.note(event)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield last_report
    finally:
        done.set()
        thread.join(timeout=30)


def first_cause(error: BaseException) -> str:
    """Return the message of a user's mistake, or Ray's full error text for anything else."""
    cause = cause_of(error)
    return str(cause if isinstance(cause, USER_ERRORS) else error).strip()


def cause_of(error: BaseException) -> BaseException:
    """Return the original exception of a worker or of Ray's controller."""
    own = worker_error(getattr(error, "worker_failures", {}))
    return own if own is not None else getattr(error, "controller_failure", error)


def worker_error(failures: Mapping[int, BaseException]) -> BaseException | None:
    """Return the original exception of a worker, preferring user errors: the other workers fail as a consequence."""
    # Ray wraps it in an exception whose text is the traceback.
    causes = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
    expected = (*USER_ERRORS, OutOfMemoryError)
    return next((cause for cause in causes if isinstance(cause, expected)), causes[0] if causes else None)
