"""Evaluate the trained detector on a held-out split: COCO metrics, curves and drawn detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.cli.progress import Count
from pipeline.evaluate.advice import NOTHING_LEARNT
from pipeline.evaluate.calibrated import calibrate_detections, choose_temperature
from pipeline.evaluate.judging import Judged, judge, summarise_errors
from pipeline.evaluate.outputs import (
    CONFUSION,
    DETECTIONS,
    MISTAKES,
    PAGE,
    PICTURES,
    REPORT,
    SHEET,
    SPEED,
    write_outputs,
)
from pipeline.evaluate.report import Curves, write_report
from pipeline.evaluate.sharing import DetectionConfig, detect_on_ray, is_shared
from pipeline.evaluate.speed_report import describe_speed, speed_metrics
from pipeline.evaluate.summary import summary
from pipeline.evaluate.thresholds import choose, summarise
from pipeline.params import Params, flatten
from pipeline.params.paths import check_folder, picture_root, storage_location
from pipeline.params.runtime import RuntimeConfig
from pipeline.reports.pictures import SheetPicture, draw_sheet
from pipeline.reports.results import JUDGED
from pipeline.runs.identity import RUN_ID, RunFolder
from pipeline.storage.outs import read_json, write_atomic, write_json
from pipeline.tracking import Run, log_split, open_existing_run, provenance_tags
from retinanet.data.splits import Split
from retinanet.data.tiles import Tiles
from retinanet.evaluation.analysis import Speed
from retinanet.evaluation.coco_eval import ImageDetections
from retinanet.inference.detector_file import load_detector

MODEL = Path("models/model.pt")
COLUMNS = 4
CLASS_METRICS = ("AP", "AP50", "threshold", "precision", "recall", "F1")


def run(params: Params, runtime: RuntimeConfig, model: Path = MODEL) -> None:
    """Detect, evaluate and draw.

    Args:
        model: file of the detector.
    """
    truths = Path(f"data/prepared/{params.evaluate.split}.json")
    content = read_json(truths)
    root = picture_root(content["info"]["root"], runtime)
    check_folder(root)
    split = Split(content, root=root)
    config = DetectionConfig(
        model=str(model.resolve()),
        split=str(truths.resolve()),
        root=root,
        postprocess=params.postprocess.model_dump(exclude={"calibrate"}),  # it is judged by raw scores
        device="cuda" if runtime.gpus_per_worker else "cpu",
        threads=runtime.cpus_per_worker,
        processes=runtime.loader_processes,
    )
    description, detect, measure_speed = find_detector(config, runtime, split, model)
    check_classes(description, split, model)
    target = params.evaluate.working_point
    points = choose(description, target)
    temperature = choose_temperature(description, calibrate=params.postprocess.calibrate)

    # Opened first, so that an error of MLflow comes before the work.
    with open_training(description["run"]["digest"], params, runtime) as run:
        detections = detect()
        judged = judge(
            content,
            detections,
            points,
            resamples=params.evaluate.resamples,
            temperature=(description.get("working_point") or {}).get("temperature"),
            calibrates=temperature is not None,
        )
        if temperature is not None:
            detections = calibrate_detections(detections, temperature)
            points = points and points.calibrated(temperature)
        judged = judged._replace(analysis=replace(judged.analysis, speed=measure_speed()))
        write_outputs(content, detections, judged)
        write_atomic(SHEET, lambda path: draw_detections(split, detections, params).save(path))
        curve_data = Curves(judged.result.precision_recall, judged.curves, points.overall.threshold if points else None)
        other = None if model == MODEL else model
        write_report(PAGE, judged.analysis, curve_data, split, params, description["run"], other=other)
        write_json(SPEED, describe_speed(judged.analysis.speed))
        record(run, judged, split=params.evaluate.split, epoch=description["run"]["epoch"])
    print(summary(judged.result, params.evaluate.split))
    if points:
        print(summarise(judged.result.metrics, target))
    print(summarise_errors(judged.analysis))
    ap = judged.result.metrics["AP"]
    if ap is not None and ap < NOTHING_LEARNT:
        print("the detector has learnt nothing: `python -m pipeline.diagnose` names the likeliest cause")


def find_detector(
    config: DetectionConfig, runtime: RuntimeConfig, split: Split, model: Path
) -> tuple[dict[str, Any], Callable[[], dict[int, ImageDetections]], Callable[[], Speed | None]]:
    """The description of the detector, the function that detects with it on every image, in the order of the split, and
    that which measures its speed, which is None where workers detect.

    Raises:
        ValueError: when there is no detector.
    """
    if is_shared(runtime, len(split.records)):
        _, description = load_detector(model)
        num_tiles = len(split.tiled(Tiles.from_dict(description["transforms"].get("tiles"))).records)

        def share() -> dict[int, ImageDetections]:
            return in_order(detect_on_ray(config, runtime, len(split.records), num_tiles), split)

        return description, share, lambda: None
    from pipeline.evaluate import (  # import torchvision, which the driver of Ray's workers does not need
        detection,
        speed,
    )

    detector = detection.load(config, model, "cuda" if torch.cuda.is_available() else "cpu")

    def detect() -> dict[int, ImageDetections]:
        with Count(len(split.records), title="evaluate", units="images") as count:
            return in_order(detection.detect(detector, split, processes=config.processes, count=count), split)

    return detector.description, detect, lambda: speed.measure_speed(detector, split)


def check_classes(description: Mapping[str, Any], split: Split, model: Path) -> None:
    """Check that labels mean the same classes in both.

    Raises:
        ValueError: naming the first class that differs.
    """
    names = [category["name"] for category in description["categories"]]
    if names == split.class_names:
        return
    own, other = next((own, other) for own, other in zip_longest(names, split.class_names) if own != other)
    raise ValueError(
        f"{model} detects {len(names)} classes and the split has {len(split.class_names)}, of which the first that "
        f"differ are {name_or_none(own)} and {name_or_none(other)}; set data.classes to the detector's classes, in "
        "their order"
    )


def name_or_none(name: str | None) -> str:
    """A class name in quotes, or none where one list is shorter."""
    return "none" if name is None else repr(name)


def in_order(detections: Mapping[int, ImageDetections], split: Split) -> dict[int, ImageDetections]:
    """Detections by image id, in the order of the split."""
    return {record.image_id: detections[record.image_id] for record in split.records}


def open_training(digest: str, params: Params, runtime: RuntimeConfig) -> Run:
    """Continue the MLflow run of the training; if MLflow does not have it, create one for the evaluation."""
    run_id = None
    try:
        run_id = RunFolder(storage_location(runtime), digest).read(RUN_ID)
    except ValueError as error:
        print(f"warning: {error}; searching MLflow for run {digest}", flush=True)
    flat = flatten(params.model_dump())
    tags = provenance_tags(params=flat, run_digest=digest) | {"kind": "evaluate"}
    return open_existing_run(run_id=run_id, digest=digest, name=f"evaluate {digest[:8]}", params=flat, tags=tags)


def draw_detections(split: Split, detections: Mapping[int, ImageDetections], params: Params) -> Image.Image:
    """Draw images at even steps over the split, the same ones after every run."""
    count = min(params.evaluate.pictures, len(split.records))
    chosen = np.linspace(0, len(split.records) - 1, count).round().astype(int).tolist()
    pictures = []
    for index in chosen:
        record = split.records[index]
        boxes, scores, labels = detections[record.image_id]
        pictures.append(
            SheetPicture(
                image=Image.fromarray(split.picture(index).permute(1, 2, 0).numpy()),
                title=Path(record.path).name,
                truth_boxes=record.boxes.numpy(),
                truth_labels=record.labels.numpy(),
                boxes=boxes,
                scores=scores,
                labels=labels,
                class_names=split.class_names,
            )
        )
    return draw_sheet(pictures, columns=COLUMNS, score_threshold=params.evaluate.picture_score)


def record(run: Run, judged: Judged, *, split: str, epoch: int) -> None:
    """Log metrics and pictures to the MLflow run.

    Args:
        epoch: of the detector.
    """
    truths = Path(f"data/prepared/{split}.json")
    metrics = {name: value for name, value in judged.result.metrics.items() if is_tracked(name)}
    metrics |= speed_metrics(judged.analysis.speed)
    run.log_metrics({f"{split}.{name}": value for name, value in metrics.items()})
    log_split(run, split, truths)
    for artifact in (REPORT, PAGE, SPEED, MISTAKES, CONFUSION, *PICTURES):
        run.log_artifact(artifact)
    run.link_artifact(PAGE.name, "Report of the evaluation")
    # Detections and ground truth, with which pipeline.compare can evaluate the run on any machine.
    for artifact in (DETECTIONS, truths):
        run.log_artifact(artifact, f"{JUDGED}/{split}")
    run.log_picture("detections", SHEET, step=epoch)


def is_tracked(name: str) -> bool:
    """Whether a metric goes to MLflow: of a class only these, because a run of hundreds of classes has many."""
    return not name.startswith("per_class.") or name.rpartition(".")[2] in CLASS_METRICS
