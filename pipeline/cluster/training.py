"""A training on Ray Train, from the driver: run, heard while it works, and told apart when it fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.util.queue import Empty, Queue

from pipeline.cluster.environment import worker_environment
from pipeline.cluster.start import Resources, describe_cluster, start_ray

# The user's mistake, and a training that diverges: their sentence says it all.
COMPLAINTS = (ValueError, FloatingPointError)


@dataclass(frozen=True)
class Outcome:
    """What a finished training reported: with its best checkpoint by the score, and with its newest."""

    metrics: dict[str, Any]
    last_metrics: dict[str, Any]


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
