"""Run trials with Ray Tune: schedulers, concurrency, and resuming a killed sweep."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import ray
import ray.tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from pipeline.cluster import Resources
from pipeline.cluster.placement import bundle, offered
from pipeline.cluster.signals import call_after
from pipeline.params.sweep import Sweep, constrained, kind_of
from pipeline.runs.sweep_folder import TUNE, SweepFolder
from pipeline.sweep.listener import Listener
from pipeline.sweep.sampler import EPOCH, SCORE, Sampler
from pipeline.sweep.space import broken_constraint

# No tables and files of Ray Tune beside ours; its snapshot is at most a second old.
VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
Base = TypeVar("Base")  # what all trials share, as of the trainable
TRIES = 2  # retries of a failed trial
# A trial that only waits for its own workers must not reserve resources that they need.
NOTHING = {"memory": 1 << 20}


def tune(
    trainable: Callable[[dict[str, Any], Base], None],
    base: Base,
    *,
    folder: SweepFolder,
    sampler: Sampler,
    scheduler: TrialScheduler,
    listener: Listener,
    resources: Resources,
    trials_at_once: int | None,
    trials: int,
    max_hours: float | None = None,
) -> None:
    """Run the remaining trials, until all have ended, the user stops them or max_hours have passed; Ray must run."""
    os.environ.update(VARIABLES)
    wide = resources.most > 1
    needs = NOTHING if wide else trial_place(resources)
    runnable = ray.tune.with_resources(ray.tune.with_parameters(trainable, base=base), needs)
    path = folder.path(TUNE)
    clones = isinstance(scheduler, PopulationBasedTraining)
    space = drawn_space(sampler, trials) if clones else None
    if ray.tune.Tuner.can_restore(path):
        tuner = ray.tune.Tuner.restore(path, runnable, param_space=space, resume_unfinished=True, restart_errored=False)
    else:
        at_once = most_at_once(resources) if trials_at_once is None else trials_at_once
        tuner = ray.tune.Tuner(
            runnable,
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=1 if clones else trials,
                search_alg=None if clones else sampler,
                scheduler=scheduler,
                # PBT compares trials at equal epochs, so all of them share the resources in turn.
                max_concurrent_trials=None if clones else at_once,
                reuse_actors=not wide,
                trial_name_creator=name_of,
                trial_dirname_creator=name_of,
            ),
            run_config=ray.tune.RunConfig(
                name=TUNE,
                storage_path=folder.url,
                verbose=0,
                callbacks=[listener],
                failure_config=ray.tune.FailureConfig(max_failures=TRIES),
                checkpoint_config=ray.tune.CheckpointConfig(num_to_keep=None if clones else 1),
            ),
        )
    with interrupted_by_sigterm(max_hours):
        tuner.fit()


@contextmanager
def interrupted_by_sigterm(max_hours: float | None = None) -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C in the body: Ray Tune handles SIGINT by saving its state and ending its trials.

    Args:
        max_hours: since the start of the command, after which the body gets SIGTERM; None: no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: raise_sigint())
    try:
        with call_after(max_hours, interrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_sigint() -> None:
    """Do what Ctrl-C does, also where a shell has started this process in the background, with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def interrupt(reason: str) -> None:
    """Send this process SIGTERM."""
    with suppress(OSError):  # nobody reads it any more
        print(f"{reason}; stopping the sweep", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def drawn_space(sampler: Sampler, trials: int) -> dict[str, Any]:
    """Return all configurations as a grid over their keys, because PBT accepts no searcher.

    Each has a value for every parameter of the space, since PBT would draw those that are missing.
    """
    drawn: list[dict[str, Any]] = []
    while len(drawn) < trials and isinstance(configuration := sampler.suggest(str(len(drawn))), dict):
        drawn.append({**sampler.base, **configuration})
    by_key = {configuration["key"]: configuration for configuration in drawn}
    names = {name for configuration in drawn for name in configuration} - {"key"}
    picked = {name: ray.tune.sample_from(partial(pick, by_key, name)) for name in sorted(names)}
    return {"key": ray.tune.grid_search(list(by_key)), **picked}


def pick(by_key: Mapping[str, Mapping[str, Any]], name: str, spec: Any) -> Any:
    """Return the value of a parameter in the configuration of that key."""
    return by_key[spec.config["key"]][name]


def name_of(trial: Any) -> str:
    """Return the name of a trial's folder."""
    return str(trial.config["key"])


def trial_place(resources: Resources) -> ray.tune.PlacementGroupFactory:
    """Return what a trial of one worker reserves: its CPUs and GPU, on a node that conf/ chooses."""
    chosen = {"bundle_label_selector": [dict(resources.labels)]} if resources.labels else {}
    own = bundle(resources.cpus_per_worker, resources.gpus_per_worker, resources.accelerator_type)
    return ray.tune.PlacementGroupFactory([own], **chosen)


def most_at_once(resources: Resources) -> int:
    """Return the number of trials that fit on the cluster with all their workers, at least one."""
    there = offered(resources.accelerator_type, resources.labels)
    each = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    fits = [int(there.get(kind, 0) // (need * resources.most)) for kind, need in each.items() if need]
    return max(1, min(fits))


def build_scheduler(sweep: Sweep, *, epochs: int, every: int) -> TrialScheduler:
    """Build Ray's scheduler by its name in params.yaml.

    Args:
        epochs: of a full trial.
        every: epochs between two evaluations.
    """
    if sweep.scheduler == "asha":
        return ASHAScheduler(time_attr=EPOCH, max_t=epochs, grace_period=every, reduction_factor=sweep.reduction)
    if sweep.scheduler == "hyperband":
        return HyperBandScheduler(time_attr=EPOCH, max_t=epochs, reduction_factor=sweep.reduction)
    if sweep.scheduler == "median":
        return MedianStoppingRule(time_attr=EPOCH, grace_period=every, min_samples_required=3)
    if sweep.scheduler == "pbt":
        return PopulationBasedTraining(
            time_attr=EPOCH,
            perturbation_interval=every,
            synch=True,
            hyperparam_mutations={key: mutation(entry) for key, entry in sweep.space.items()},
            custom_explore_fn=partial(repair, constraints=sweep.constraints),
        )
    return FIFOScheduler()


def mutation(entry: Mapping[str, list[Any]]) -> Any:
    """Return the values or the distribution from which PBT draws."""
    kind = kind_of(entry)
    values = entry[kind]
    if kind in ("choice", "grid"):
        return list(values)
    return {"uniform": ray.tune.uniform, "loguniform": ray.tune.loguniform, "quniform": ray.tune.quniform}[kind](
        *values
    )


def repair(configuration: dict[str, Any], *, constraints: Sequence[str]) -> dict[str, Any]:
    """Repair PBT's configuration: if two parameters violate a constraint, the left one takes the right one's value."""
    repaired = dict(configuration)
    for text in constraints:
        left, right = constrained(text)
        if left in repaired and right in repaired and broken_constraint([text], repaired):
            repaired[left] = repaired[right]
    return repaired
