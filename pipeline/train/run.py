"""Stage train: one experiment on Ray, resumed where it was killed, and the best detector of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipeline import cluster
from pipeline.curves import plot_curves, write_history_csv
from pipeline.fit import BEST, ROWS, fit
from pipeline.identity import RUN_ID, RunFolder, digest_file, digest_run, lock_run
from pipeline.inputs import CACHE, publish_inputs
from pipeline.lease import hold_lease
from pipeline.outs import read_json, write_json, write_whole
from pipeline.params import Params, flatten, project_root
from pipeline.params.paths import check_folder, outer_root, picture_root, storage_location
from pipeline.params.place import Place
from pipeline.progress import Progress
from pipeline.tracking import (
    Run,
    cluster_tags,
    import_mlflow,
    log_code_changes,
    log_split,
    open_run,
    provenance_tags,
    write_note,
)
from pipeline.train.refusals import ANCHORS, SPLITS, weights_file
from pipeline.watched import Watched, choose_watched
from retinanet.detector_file import describe_detector, load_detector
from retinanet.hardware import native_precision

MODEL = Path("models/model.pt")
REPORT = Path("reports/train.json")
EARLIER_REPORTS = (Path("reports/prepare.json"), Path("reports/anchor_stats.json"))
HISTORY = Path("plots/training.csv")
CURVES = Path("plots/training.png")
IMAGES_PER_STEP = "images_per_step"  # the text in a run's folder with what has been found to fit
HOUSE = Path(__file__).resolve().parents[2]
# What computes the result: changed code must not go on with what other code began, nor pass for its result.
CODE = (*sorted(HOUSE.glob("retinanet/**/*.py")), *sorted(HOUSE.glob("pipeline/fit/*.py")))
SECTIONS = {"seed", "transforms", "matcher", "loss", "model", "optim", "train"}  # those of this stage in dvc.yaml


def run(params: Params, place: Place) -> None:
    """Train as params.yaml and conf/ say; one process at a time."""
    if place.precision == "auto":
        place = place.model_copy(update={"precision": native_precision(place.gpus_per_worker > 0)})
    digest = digest_training(params, place)
    storage = storage_location(place)
    config = worker_config(params, place, digest=digest, run=RunFolder(storage, digest).url)
    if not cluster.is_elsewhere(place.address):
        check_folder(config["data"]["root"])
    locks = outer_root(project_root()) / "runs" / "locks"
    with lock_run(locks, digest) as lock, hold_lease(storage, digest, lock=lock):
        threading.Thread(target=import_ahead, daemon=True).start()
