"""Stage train: one experiment on Ray, resumed where it was killed, and the best detector of it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import cluster
from pipeline.curves import plot_curves, write_history_csv
from pipeline.fit import build_criterion, fit
from pipeline.identity import RUN_ID, RunFolder, digest_file, digest_run, lock_run, outer_root
from pipeline.inputs import BUILT_IN, CACHE, publish_inputs
from pipeline.outs import read_json, write_json, write_whole
from pipeline.params import Params, flatten, load_params, project_root
from pipeline.params.place import Place, load_place
from pipeline.progress import Progress
from pipeline.tracking import (
    Run,
    cluster_tags,
    log_code_changes,
    log_split,
    open_run,
    provenance_tags,
    write_note,
)
from pipeline.watched import Watched, choose_watched
from retinanet.detector import describe_detector
from retinanet.engine import native_precision

SPLITS = {name: Path(f"data/prepared/{name}.json") for name in ("train", "val")}
ANCHORS = Path("anchors.json")
MODEL = Path("models/model.pt")
REPORT = Path("reports/train.json")
HISTORY = Path("plots/training.csv")
CURVES = Path("plots/training.png")
HOUSE = Path(__file__).resolve().parents[1]
# What computes the result: changed code must not go on with what other code began, nor pass for its result.
CODE = (*sorted(HOUSE.glob("retinanet/**/*.py")), HOUSE / "pipeline/fit.py")
SECTIONS = {"seed", "transforms", "matcher", "loss", "model", "optim", "train"}  # those of this stage in dvc.yaml

DESCRIPTION = """\
Train on Ray with the workers of conf/ (PIPELINE_CONF names the file, conf/local.yaml by default). A training that was
killed goes on from its last checkpoint when it is run again.

reads    params.yaml, data/prepared/{train,val}.json, anchors.json, the pictures
writes   models/model.pt (the best epoch by AP on val), reports/train.json, plots/training.{csv,png}
keeps    checkpoints in <storage of conf/>/<digest>, one run in MLflow
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the stage in the folder of params.yaml."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.train", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    params, place = load_params(), load_place()
    if place.precision == "auto":
        place = place.model_copy(update={"precision": native_precision(place.gpus_per_worker > 0)})
    check_share(params, place)
    digest = digest_training(params, place)
    home = outer_root(project_root())
    storage = place.storage if "://" in place.storage else str(home / place.storage)
    with lock_run(home / "runs" / "locks", digest):
        train(params, place, digest=digest, storage=storage)


def check_share(params: Params, place: Place) -> None:
    """Refuse, or tell, what params.yaml and conf/ say only together.

    Raises:
        ValueError: when there are more workers than images in a batch.
    """
    if place.workers > params.train.batch_size:
        raise ValueError(
            f"workers is {place.workers} in conf/, more than the images of a batch (train.batch_size "
            f"{params.train.batch_size}); use fewer workers"
        )
    if params.model.norm == "sync_batch" and place.images_per_step is not None:
        raise ValueError(
            f"images_per_step is {place.images_per_step} in conf/, but model.norm is sync_batch, which must see "
            "the whole batch at once; set images_per_step: null, or use another norm"
        )
    if params.model.norm == "batch" and (place.workers > 1 or place.images_per_step is not None):
        print(
            "model.norm is batch: a worker normalises over its own images, so the result depends on conf/", flush=True
        )


def digest_training(params: Params, place: Place) -> str:
    """The name of a run: all that decides its result, and of the place only the precision."""
    values = {**params.model_dump(include=SECTIONS), "precision": place.precision}
    return digest_run(values, [*SPLITS.values(), ANCHORS, *weights_file(params), *CODE])


def weights_file(params: Params) -> list[Path]:
    """The file that model.weights names, if it names one."""
    weights = params.model.weights
    return [] if weights in BUILT_IN else [project_root() / weights]


def train(params: Params, place: Place, *, digest: str, storage: str) -> None:
    """Train one run to its end, export its best detector, and record it."""
    config = worker_config(params, place, digest=digest)
    build_criterion(config["description"], config["params"])  # what it complains of comes before any work
    folder = RunFolder(storage, digest)
    flat = flatten(params.model_dump())
    tags = provenance_tags(
        params=flat,
        data_hash=digest_file(SPLITS["train"]),
        run_digest=digest,
        ray_address=cluster.address_of(place.address),
    )
    flat |= {f"conf.{key}": value for key, value in place.model_dump().items()}
    with open_run(run_id=folder.read(RUN_ID), name=f"train {digest[:8]}", params=flat, tags=tags) as run:
        print(f"run {digest}: {params.train.epochs} epochs on {place.workers} workers, {place.precision}", flush=True)
        run.sample_machine()
        log_code_changes(run)
        watched = Watched(SPLITS["val"], root=config["data"]["root"], score_threshold=params.evaluate.picture_score)
        listener = Listener(run, folder, Progress(params.train.epochs), watched)
        listener.keep_run_id()
        if cluster.is_elsewhere(place.address):
            config = publish_inputs(config, storage)
        resources = place.model_dump(include=set(cluster.Resources.__dataclass_fields__))
        outcome = cluster.train(
            fit,
            config,
            address=place.address,
            resources=cluster.Resources(**resources),
            name=digest,
            storage=storage,
            score="score",
            on_event=listener,
            export=export,
        )
        history = outcome.last_metrics["history"]
        run.log_history(history)
        listener.keep_run_id()
        best = outcome.metrics["history"][-1]
        write_reports(history, best=best, digest=digest)
        run.set_tags(write_note(best, epochs=len(history), digest=digest, reproduce=tags.get("reproduce")))
        log_outs(run)
    print(f"best epoch {best['epoch']}; compare the runs with: {run.url}", flush=True)


def worker_config(params: Params, place: Place, *, digest: str) -> dict[str, Any]:
    """All that a worker needs, in plain values; paths are absolute because workers run elsewhere."""
    content = read_json(SPLITS["train"])
    sections = params.model_dump()
    root = place.data_root or content["info"]["root"]
    weights = [str(path) for path in weights_file(params)]
    return {
        "params": sections
        | {"model": sections["model"] | {"weights": weights[0] if weights else params.model.weights}},
        "place": place.model_dump(),
        "description": describe_detector(
            **{name: sections[name] for name in ("model", "loss", "transforms")},
            anchors=read_json(ANCHORS),
            categories=content["categories"],
            run={"digest": digest},
        ),
        "data": {
            **{name: str(path.resolve()) for name, path in SPLITS.items()},
            "root": root if "://" in root else str(project_root() / root),
            "watched": choose_watched(read_json(SPLITS["val"])),
            "cache_folder": f"{CACHE}/pictures",
        },
    }


class Listener:
    """Hears what the workers report: tells the person and the tracker."""

    def __init__(self, run: Run, folder: RunFolder, progress: Progress, watched: Watched) -> None:
        self.run, self.folder, self.progress, self.watched = run, folder, progress, watched

    def __call__(self, event: Mapping[str, Any]) -> None:
        """One event of the training; see pipeline.cluster."""
        if event["kind"] == "step":
            self.progress.step(event)
        elif event["kind"] == "resume":
            print(f"going on from epoch {event['epoch']}", flush=True)
        elif event["kind"] == "cluster":
            self.run.set_tags(cluster_tags(event))
        elif event["kind"] == "detections":
            self.watched.found = event["found"]
        else:
            self.progress.epoch(event["history"])
            self.run.log_history(event["history"])
            self.keep_run_id()
            self.run.sample_machine()  # where the store was away it has stopped
            self.watched.log(self.run, epoch=event["history"][-1]["epoch"])

    def keep_run_id(self) -> None:
        """A resumed training continues this run of the tracker; its id is known once the store has answered."""
        if self.run.run_id is not None:
            self.folder.write(RUN_ID, self.run.run_id)


def export(checkpoint: Path) -> None:
    """Put the detector of a checkpoint's folder in place."""
    write_whole(MODEL, lambda temporary: shutil.copyfile(checkpoint / "detector.pt", temporary))


def write_reports(history: list[dict[str, Any]], *, best: Mapping[str, Any], digest: str) -> None:
    """The figures of the best epoch, and the curves of all."""
    kept = {key: value for key, value in best.items() if key not in ("seconds", "images_per_s")}
    write_json(REPORT, {"run": digest, "epochs": history[-1]["epoch"], "best": kept})
    write_whole(HISTORY, lambda path: write_history_csv(history, path))
    write_whole(CURVES, lambda path: plot_curves(history, path))


def log_outs(run: Run) -> None:
    """What the run ends with goes to the tracker: data, parameters, curves and the model."""
    for name, path in SPLITS.items():
        log_split(run, name, path)
    for artifact in (Path("params.yaml"), ANCHORS, REPORT, CURVES):
        run.log_artifact(artifact)
    run.log_model(MODEL, class_names=[category["name"] for category in read_json(SPLITS["train"])["categories"]])


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"train: {error}") from None
