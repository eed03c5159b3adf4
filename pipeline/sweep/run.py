"""Run a sweep: identity, folder, MLflow run, Ray."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import cluster
from pipeline.cli.end import FINISHED, STOPPED, Ending
from pipeline.fit.config import publish_inputs
from pipeline.params import Params, flatten, project_root
from pipeline.params.conflicts import check_share, conflict
from pipeline.params.paths import check_folder, outer_root, picture_root, storage_location
from pipeline.params.runtime import RuntimeConfig
from pipeline.params.sweep import Sweep, every_value, replaced
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.fingerprint import digest_code, training_code
from pipeline.runs.identity import RUN_ID, SECTIONS, digest_file, digest_run, lock_run
from pipeline.runs.inputs import SPLITS, publish
from pipeline.runs.lease import hold_lease
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.storage.outs import read_json
from pipeline.sweep.feasibility import FeasibilityCheck
from pipeline.sweep.listener import Listener
from pipeline.sweep.predecessor import choose_sweep, note_code
from pipeline.sweep.report import PAGE, Report, report
from pipeline.sweep.sampler import Sampler
from pipeline.sweep.space import params_with
from pipeline.sweep.trial import TrialBase, run_trial, weights_key
from pipeline.sweep.tuning import build_scheduler, tune
from pipeline.tracking import Run, cluster_tags, log_code_changes, log_split, open_run, provenance_tags
from pipeline.tracking.description import DESCRIPTION_TAG
from pipeline.worker_config import check_weights, initial_weights, worker_config
from retinanet.network.precision import native_precision


@dataclass(frozen=True)
class Plan:
    """Everything that determines a sweep.

    Attributes:
        params: the base, including the fixed values of all trials (sweep.fixed).
        name: digest of everything that determines a trial's result, and of section sweep.
        weights: files of initial weights on this machine, by weights_key.
    """

    params: Params
    sweep: Sweep
    runtime: RuntimeConfig
    name: str
    folder: SweepFolder
    weights: Mapping[str, Path] = field(default_factory=dict)


def make_plan(params: Params, sweep: Sweep, runtime: RuntimeConfig) -> Plan:
    """Check everything that can be checked before any work.

    Raises:
        ValueError: naming what cannot be together, or which stage has not run.
    """
    if runtime.precision == "auto":
        runtime = runtime.model_copy(update={"precision": native_precision(runtime.gpus_per_worker > 0)})
    base = params_with(params, sweep.fixed)
    check_share(base, runtime)
    check_space(base, sweep, runtime)
    check_patience(base, sweep)
    check_fitted_anchors(base, sweep)
    if not cluster.is_elsewhere(runtime.address):
        # All splits have the same root, and val is the smaller file.
        check_folder(picture_root(read_json(SPLITS["val"])["info"]["root"], runtime))
    if sweep.scheduler in ("pbt", "hyperband") and runtime.most > 1:
        raise ValueError(
            f"sweep.scheduler is {sweep.scheduler}, which can pause and clone only trials of one worker, but workers "
            f"is {runtime.workers} in conf/; set workers to 1, or use asha, median or none"
        )
    values = {
        # A trial stores raw scores, so whether they are calibrated in use changes no sweep.
        **base.model_dump(include={*SECTIONS, "anchors", "postprocess"}, exclude={"postprocess": {"calibrate"}}),
        "sweep": sweep.model_dump(),
        "precision": runtime.precision,
    }
    weights = sweep_weights(base, sweep, runtime)
    experiment = digest_run(values, [*SPLITS.values(), *(weights[key] for key in sorted(weights))])
    sweeps, code = f"{storage_location(runtime)}/sweeps", training_code()
    name = choose_sweep(sweeps, f"{experiment}-{digest_code(code)}", code, resume_earlier=runtime.resume == "always")
    return Plan(base, sweep, runtime, name, SweepFolder(f"{sweeps}/{name}"), weights)


def sweep_weights(base: Params, sweep: Sweep, runtime: RuntimeConfig) -> dict[str, Path]:
    """Return the file of all initial weights that a trial may start from, by weights_key; downloaded if need be."""
    check_weights(base, initial_weights(base, runtime))
    names: dict[str, list[Any]] = {"weights": [base.model.weights], "backbone": [base.model.backbone]}
    for _, key, values in every_value(sweep):
        section, _, name = key.partition(".")
        if section == "model" and name in names:
            names[name] += values
    found = {}
    for weights, backbone in itertools.product(names["weights"], names["backbone"]):
        model = base.model.model_copy(update={"weights": weights, "backbone": backbone})
        path = initial_weights(base.model_copy(update={"model": model}), runtime)
        if path is not None:
            found[weights_key(model)] = path
    return found


def check_space(base: Params, sweep: Sweep, runtime: RuntimeConfig) -> None:
    """Check that conf/ can train every value of the space and the points: trials would fail otherwise.

    Raises:
        ValueError: naming where it stands.
    """
    content = base.model_dump(exclude={"sweep"})
    for where, key, values in every_value(sweep):
        for value in values if key in ("model.norm", "train.batch_size") else ():
            complaint = conflict(Params.model_validate(replaced(content, {key: value})), runtime)
            if complaint is not None:
                raise ValueError(f"sweep.{where}.{key} holds {value}: {complaint}")


def check_patience(base: Params, sweep: Sweep) -> None:
    """Check that no trial of PBT may end early: the others would wait for its next epoch forever.

    Raises:
        ValueError: naming what to change.
    """
    values = [base.train.patience, *(point.get("train.patience") for point in sweep.points)]
    if sweep.scheduler == "pbt" and any(value is not None for value in values):
        raise ValueError(
            f"sweep.scheduler is pbt, which compares all trials at equal epochs, but train.patience is "
            f"{next(value for value in values if value is not None)}; set train.patience: null in sweep.fixed, or use "
            "another scheduler"
        )


def check_fitted_anchors(base: Params, sweep: Sweep) -> None:
    """Check that PBT does not change anchors in the middle of a training, which fitted ones would by this key.

    Raises:
        ValueError: naming what to change.
    """
    varied = {*sweep.space, *(key for point in sweep.points for key in point)}
    if sweep.scheduler == "pbt" and base.anchors.mode == "fitted" and "matcher.foreground_iou" in varied:
        raise ValueError(
            "sweep.scheduler is pbt and the sweep varies matcher.foreground_iou, but anchors.mode is fitted: the "
            "anchors would change during training; set anchors.mode: fixed in sweep.fixed, or use another scheduler"
        )


def run_sweep(plan: Plan, *, conf: Path, apply: bool, ending: Ending | None = None) -> None:
    """Run the remaining trials, and report; resumes a killed sweep, and needs no Ray for a finished one.

    Args:
        ending: is filled in with what on_end tells.
    """
    ending = Ending() if ending is None else ending
    ending.run = plan.name
    locks = outer_root(project_root()) / "runs" / "locks"
    with lock_run(locks, plan.name) as lock, hold_lease(storage_location(plan.runtime), plan.name, lock=lock):
        begun = plan.folder.read_json("sweep.json") or {"begun": time.time()}
        plan.folder.write_json("sweep.json", note_code(begun, training_code()) | describe(plan))
        run_id = plan.folder.read(RUN_ID)
        with open_parent(plan, None if run_id is None else run_id.decode()) as parent:
            if parent.run_id is not None:
                plan.folder.write(RUN_ID, parent.run_id.encode())
            print(f"sweep {plan.name}: {words(plan)}", flush=True)
            parent.log_system_metrics()
            log_code_changes(parent)
            for split, path in SPLITS.items():
                log_split(parent, split, path)
            if not plan.folder.has_ended():
                run_trials(plan, parent)
            ending.url, shown = parent.url, report(plan.folder, conf=conf, apply=apply)
            log_report(parent, shown)
            if shown is not None:
                ending.AP, ending.message = shown.winner.mean, f"best setting: trial {shown.winner.number}"
            has_ended = plan.folder.has_ended()
            ending.status = FINISHED if has_ended else STOPPED
            parent.finish("FINISHED" if has_ended else "KILLED")


def describe(plan: Plan) -> dict[str, Any]:
    """Return the content of sweep.json, for `status` and `report`."""
    return {
        "name": plan.name,
        "sweep": plan.sweep.model_dump(),
        "params": plan.params.model_dump(exclude={"sweep"}),
        "trials": plan.sweep.trials * plan.sweep.seeds,
        "epochs": plan.params.train.epochs,
    }


def words(plan: Plan) -> str:
    """Format the plan."""
    sweep = plan.sweep
    seeds = f" with {sweep.seeds} seeds each" if sweep.seeds > 1 else ""
    return (
        f"up to {sweep.trials} settings{seeds} of {plan.params.train.epochs} epochs, search {sweep.search}, "
        f"scheduler {sweep.scheduler}, {plan.runtime.workers} worker(s) each, {plan.runtime.precision}"
    )


def open_parent(plan: Plan, run_id: str | None) -> Run:
    """Open the sweep's MLflow run, the parent of its trials' runs."""
    flat = flatten(plan.params.model_dump(exclude={"sweep"}))
    own = {f"sweep.{key}": value for key, value in plan.sweep.model_dump().items()}
    tags = provenance_tags(params=flat, data_hash=digest_file(SPLITS["train"]), run_digest=plan.name)
    return open_run(run_id=run_id, name=f"sweep {plan.name[:8]}", params=own, tags=tags | {"kind": "sweep"})


@dataclass(frozen=True)
class OpenTrialRun:
    """Opens the run of a trial; has plain values only, because Ray pickles it."""

    params: dict[str, Any]
    runtime: dict[str, Any]
    tags: dict[str, str]
    home: str

    def __call__(self, configuration: Mapping[str, Any], run_id: str | None) -> Run:
        """See pipeline.sweep.listener.OpenRun."""
        settings = {name: value for name, value in configuration.items() if "." in name}
        params = {**self.params, **settings, "seed": configuration["seed"]}
        name = f"trial {configuration['number']} seed {configuration['seed']}"
        with chdir(self.home):
            return open_run(
                run_id=run_id,
                name=name,
                params=params | self.runtime,
                tags={**self.tags, "trial": configuration["key"]},
            )


def log_report(run: Run, shown: Report | None) -> None:
    """Log the report of a sweep to its MLflow run."""
    if shown is None:
        return
    run.log_metrics({"best.AP": shown.winner.mean})
    for path in shown.paths:
        run.log_artifact(path)
    lines = [f"**AP {shown.winner.mean:.3f}** on val: trial {shown.winner.number}", "", shown.verdict]
    run.set_tags({DESCRIPTION_TAG: "\n".join([*lines, "", "Reproduce the winner:", "```", shown.command, "```"])})
    run.link_artifact(PAGE.name, "Report of the sweep")


def run_trials(plan: Plan, parent: Run) -> None:
    """Start Ray and run all trials."""
    params, runtime, sweep = plan.params, plan.runtime, plan.sweep
    flat = flatten(params.model_dump(exclude={"sweep"}))
    tags = provenance_tags(params=flat, data_hash=digest_file(SPLITS["train"]), run_digest=plan.name)
    tags |= {"kind": "trial", "sweep": plan.name} | ({"mlflow.parentRunId": parent.run_id} if parent.run_id else {})
    resources = cluster.Resources.of(runtime)
    feasibility = FeasibilityCheck(params, sweep, SPLITS["train"].resolve())
    worker = worker_config(params, runtime, digest=plan.name, run=plan.folder.url)
    weights = {key: str(path) for key, path in plan.weights.items()}
    if cluster.is_elsewhere(runtime.address):
        worker = publish_inputs(worker, storage_location(runtime))
        weights = {key: publish(path, storage_location(runtime)) for key, path in plan.weights.items()}
    at_once = sweep.trials * sweep.seeds if runtime.trials_at_once is None else runtime.trials_at_once
    worker = replace(worker, thresholds=sweep.postprocess, trials_at_once=at_once)
    base = TrialBase(params, worker, plan.folder.url, resources, weights)
    open_trial_run = OpenTrialRun(
        flat, {f"conf.{key}": value for key, value in runtime.recorded().items()}, tags, str(Path.cwd())
    )
    listener = Listener(
        plan.folder,
        trials=sweep.trials * sweep.seeds,
        epochs=params.train.epochs,
        open_run=open_trial_run,
        sample_images=SampleImages(
            SPLITS["val"].resolve(), root=worker.data.root, score_threshold=params.evaluate.picture_score
        ),
    )
    with cluster.start_ray(
        runtime.address,
        resources,
        dashboard=runtime.most > 1,
        environment=resources.variables,
    ) as dashboard:
        parent.set_tags(cluster_tags(cluster.describe_cluster()) | ({"ray.dashboard": dashboard} if dashboard else {}))
        tune(
            run_trial,
            base,
            folder=plan.folder,
            sampler=Sampler(
                sweep,
                base=flat,
                seed=params.seed,
                epochs=params.train.epochs,
                refuse=feasibility,
                on_exhausted=plan.folder.note_exhausted,
            ),
            scheduler=build_scheduler(sweep, epochs=params.train.epochs, every=params.train.evaluate_every),
            listener=listener,
            resources=resources,
            trials_at_once=runtime.trials_at_once,
            trials=sweep.trials * sweep.seeds,
            max_hours=runtime.max_hours,
        )
