"""Stage train: train on Ray, resume after a kill, export the best detector."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline import cluster
from pipeline.cli.end import Ending
from pipeline.cli.progress import Progress
from pipeline.cluster.archive import export_archive, is_archived
from pipeline.fit import fit
from pipeline.fit.config import WorkerConfig, publish_inputs
from pipeline.fit.ending import describe_early_end, ends_early, has_ended
from pipeline.params import Params, flatten, project_root
from pipeline.params.experiment import Train
from pipeline.params.paths import check_folder, outer_root, storage_location
from pipeline.params.runtime import RuntimeConfig
from pipeline.reports.sample_images import SampleImages
from pipeline.runs.fingerprint import digest_code, training_code
from pipeline.runs.identity import BEST, ENDED, ROWS, RUN_ID, SECTIONS, RunFolder, digest_file, digest_run, lock_run
from pipeline.runs.inputs import ANCHORS, SPLITS
from pipeline.runs.lease import hold_lease
from pipeline.runs.predecessor import begin_run
from pipeline.storage.outs import read_json, write_atomic
from pipeline.tracking import (
    Run,
    cluster_tags,
    describe_run,
    import_mlflow,
    log_code_changes,
    open_run,
    provenance_tags,
)
from pipeline.train.micro_batch import IMAGES_PER_STEP, halve_images, keep_size, with_at_most, with_images_per_step
from pipeline.train.outs import MODEL, card_of, log_outs, write_reports
from pipeline.worker_config import check_weights, initial_weights, worker_config
from retinanet.inference.detector_file import load_detector, save_detector
from retinanet.network.precision import native_precision


def run(params: Params, runtime: RuntimeConfig, ending: Ending | None = None) -> None:
    """Train one run; only one process at a time.

    Args:
        ending: is filled in with what on_end tells.
    """
    ending = Ending() if ending is None else ending
    if runtime.precision == "auto":
        runtime = runtime.model_copy(update={"precision": native_precision(runtime.gpus_per_worker > 0)})
    check_weights(params, initial_weights(params, runtime))
    digest = digest_training(params, runtime)
    ending.run, storage = digest, storage_location(runtime)
    config = worker_config(params, runtime, digest=digest, run=RunFolder(storage, digest).url)
    if not cluster.is_elsewhere(runtime.address):
        check_folder(config.data.root)
    locks = outer_root(project_root()) / "runs" / "locks"
    with lock_run(locks, digest) as lock, hold_lease(storage, digest, lock=lock):
        imports = threading.Thread(target=import_ahead, daemon=True)
        imports.start()
        ended = runtime.resume != "never" and is_archived(RunFolder(storage, digest))
        resources = cluster.Resources.of(runtime)
        with nullcontext("") if ended else cluster.start_ray(runtime.address, resources) as dashboard:
            imports.join()
            train(params, runtime, config, digest=digest, storage=storage, dashboard=dashboard, ending=ending)


def import_ahead() -> None:
    """Import pandas and MLflow, which takes 4 s, while Ray starts.

    An error in this thread is ignored: the main thread raises it again at the same import.
    """
    with suppress(Exception):
        import pandas  # noqa: F401  # Ray Train's

        import_mlflow()


def digest_training(params: Params, runtime: RuntimeConfig) -> str:
    """The name of a run: a digest of all that decides its result; of conf/ only the precision.

    Returns:
        <digest of parameters, precision and data>-<digest of the code>.
    """
    values = {**params.model_dump(include=SECTIONS), "precision": runtime.precision}
    weights = initial_weights(params, runtime)
    experiment = digest_run(values, [*SPLITS.values(), ANCHORS, *([weights] if weights else [])])
    return f"{experiment}-{digest_code(training_code())}"


def train(
    params: Params,
    runtime: RuntimeConfig,
    config: WorkerConfig,
    *,
    digest: str,
    storage: str,
    dashboard: str,
    ending: Ending,
) -> None:
    """Train one run to its end, export its best detector, and log it."""
    folder = RunFolder(storage, digest)
    if runtime.resume == "never":
        put_aside(folder)
    origin = begin_run(storage, digest, training_code(), resume_earlier=runtime.resume == "always")
    flat = flatten(params.model_dump())
    tags = provenance_tags(
        params=flat,
        data_hash=digest_file(SPLITS["train"]),
        run_digest=digest,
        ray_address=cluster.address_of(runtime.address),
    )
    tags |= origin | ({"ray.dashboard": dashboard} if dashboard else {})
    flat |= {f"conf.{key}": value for key, value in runtime.recorded().items()}
    known = folder.read(RUN_ID)
    with open_run(run_id=known, name=f"train {digest[:8]}", params=flat, tags=tags) as run:
        workers = runtime.fewest if runtime.fewest == runtime.most else f"{runtime.fewest} to {runtime.most}"
        print(f"run {digest}: {params.train.epochs} epochs on {workers} workers, {runtime.precision}", flush=True)
        run.log_system_metrics()
        log_code_changes(run)
        sample_images = SampleImages(
            SPLITS["val"], root=config.data.root, score_threshold=params.evaluate.picture_score
        )
        listener = Listener(run, folder, progress_of(params.train), sample_images, kept=known, ending=ending)
        listener.keep_run_id()
        ending.url = run.url
        found = export_archive(folder, partial(export, digest=digest))
        if found is None:
            if cluster.is_elsewhere(runtime.address):
                config = publish_inputs(config, storage)
            found = train_in_memory(config, runtime, folder, name=digest, storage=storage, listener=listener)
        history, best_epoch = found
        if not has_ended(history, params.train):
            raise RuntimeError(
                f"the newest checkpoint holds {len(history)} of {params.train.epochs} epochs; later ones could not be "
                f"written to {storage}: free space there, then run again to resume"
            )
        run.log_history(history)
        listener.try_to_keep_run_id()
        best = history[best_epoch - 1]
        write_reports(history, best=best, digest=digest)
        folder.write(ENDED, str(len(history)))
        run.set_tags(describe_run(best, epochs=len(history), digest=digest, reproduce=tags.get("reproduce")))
        log_outs(run, card=card_of(best, params=flat, tags=tags, run_id=run.run_id))
    ending.reach(history)
    ending.message = f"best epoch {best['epoch']} of {len(history)}"
    if ends_early(history, params.train):
        ending.message = describe_early_end(history, params.train)
        print(ending.message, flush=True)
    print(f"best epoch {best['epoch']}; compare the runs with: {run.url}", flush=True)


def progress_of(train: Train) -> Progress:
    """The progress lines of a training."""
    return Progress(train.epochs, ends_early=None if train.patience is None else partial(ends_early, train=train))


def put_aside(folder: RunFolder) -> None:
    """Rename the folder of an earlier run of this name, so that training starts from the beginning."""
    aside = folder.put_aside()
    if aside is not None:
        print(f"resume: never in conf/ moved the earlier checkpoints of this run to {aside}", flush=True)


def train_in_memory(
    config: WorkerConfig, runtime: RuntimeConfig, folder: RunFolder, *, name: str, storage: str, listener: Listener
) -> tuple[list[dict[str, Any]], int]:
    """Train; when a worker runs out of memory, restart with micro-batches of half the size, which changes no result.

    Returns:
        The history, and the number of its best epoch.
    """
    from pipeline.cluster.training import train_on_ray  # Ray Train takes 2 s to be imported

    known = folder.read(IMAGES_PER_STEP)
    if known is not None:  # twice what fitted: memory may be free again, or the batch that did not fit was a rare one
        config = with_at_most(config, 2 * int(known))
        keep_size(folder, config.runtime.images_per_step)
    while True:
        try:
            return train_on_ray(
                fit,
                config,
                resources=cluster.Resources.of(runtime),
                name=name,
                storage=storage,
                on_event=listener,
                export=partial(export, digest=name),
                max_hours=runtime.max_hours,
            )
        except torch.OutOfMemoryError as error:
            images = halve_images(config, workers=runtime.fewest, error=error)
            config = with_images_per_step(config, images)
            keep_size(folder, images)


class Listener:
    """Forwards worker reports to the console and to MLflow.

    Args:
        kept: the id of the MLflow run that the folder holds.
        ending: gets the best epoch so far.
    """

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        progress: Progress,
        sample_images: SampleImages,
        *,
        kept: str | None = None,
        ending: Ending | None = None,
    ) -> None:
        self.run, self.folder, self.progress, self.sample_images, self.kept = run, folder, progress, sample_images, kept
        self.ending, self.has_warned = Ending() if ending is None else ending, False

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Handle an event of the training; see pipeline.cluster.training."""
        if event["kind"] == "step":
            self.progress.step(event)
        elif event["kind"] == "resume":
            step = f", step {event['step']} of the next" if event["step"] else ""
            print(f"resuming from epoch {event['epoch']}{step}", flush=True)
        elif event["kind"] in ("memory", "weights"):
            print(event["text"], flush=True)
        elif event["kind"] == "warning":
            print(f"warning: {event['text']}", flush=True)
        elif event["kind"] == "cluster":
            self.run.set_tags(cluster_tags(event))
        elif event["kind"] == "load":
            self.run.log_node_load(event["node"], event["load"])
        elif event["kind"] == "detections":
            self.sample_images.keep(event["found"], epoch=event["epoch"])
        elif not event["is_partial"]:
            self.progress.epoch(event["history"])
            self.ending.reach(event["history"])
            self.run.log_history(event["history"])
            self.try_to_keep_run_id()
            self.run.log_system_metrics()  # it stops when the store does not answer
            self.sample_images.log(self.run, epoch=event["history"][-1]["epoch"])

    def keep_run_id(self) -> None:
        """Write the id of the MLflow run, known once the store has answered, so that a resumed training continues it.

        Raises:
            ValueError: naming the storage, when it cannot be written.
        """
        if self.run.run_id not in (None, self.kept):
            self.folder.write(RUN_ID, self.run.run_id)
            self.kept = self.run.run_id

    def try_to_keep_run_id(self) -> None:
        """As `keep_run_id`, with one warning if the storage cannot be written; the next epoch tries again."""
        try:
            self.keep_run_id()
        except ValueError as error:
            if not self.has_warned:
                print(f"warning: the id of the MLflow run was not stored: {error}", flush=True)
            self.has_warned = True


def export(checkpoint: Path, *, digest: str) -> tuple[list[dict[str, Any]], int]:
    """Copy the best detector of a checkpoint to its place; the history, and the epoch of the detector.

    Args:
        digest: the name of this run; a detector of the run that it resumed from has another.
    """
    weights, description = load_detector(checkpoint / BEST)
    if description["run"]["digest"] == digest:
        write_atomic(MODEL, lambda temporary: shutil.copyfile(checkpoint / BEST, temporary))
    else:
        own = {**description, "run": {**description["run"], "digest": digest}}
        write_atomic(MODEL, lambda temporary: save_detector(temporary, weights, own))
    return read_json(checkpoint / ROWS), description["run"]["epoch"]
