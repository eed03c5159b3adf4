"""Collect the evidence: read files, build the network of the first step, detect on some pictures."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.anchor_stats.coverage import Coverage, cover
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.in_force import anchors_in_force
from pipeline.anchor_stats.scale import at_training_scale
from pipeline.cli.progress import Count
from pipeline.diagnose.evidence import FirstStep, Row, SplitCounts, Trained
from pipeline.fit.building import build_network, load_weights, seed_all
from pipeline.params import Params
from pipeline.params.runtime import RuntimeConfig
from retinanet.anchors.grid import Grid
from retinanet.data.dataset import Batch, EvaluationBatches, prefetch
from retinanet.data.records import Records
from retinanet.data.splits import Split, part_of
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import describe_detector
from retinanet.network.predictions import Predictions

PRIOR = 0.01  # of the paper, section 4.1
SHOWN = 0.05  # score
IMAGES_PER_BATCH = 4
FIRST_PICTURES = 8  # for the loss at the first step


def count_split(content: Mapping[str, Any]) -> SplitCounts:
    """Count a prepared split."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    rows = (row for row in content["annotations"] if not row.get("iscrowd", 0))
    counts = Counter(names[row["category_id"]] for row in rows)
    return SplitCounts(len(content["images"]), {name: counts[name] for name in names.values()})


def cover_boxes(content: Mapping[str, Any], params: Params) -> Coverage | None:
    """Assign the anchors of train; None where it has no boxes to which anchors could be fitted."""
    scaled = list(at_training_scale(Records(content), params.transforms))
    if params.anchors.mode == "fitted" and not any(len(boxes) for _, boxes, _ in scaled):
        return None
    return cover(scaled, anchor_grid(anchors_in_force(params, scaled)), params.matcher)


def images_per_pass(params: Params, runtime: RuntimeConfig) -> int:
    """The fewest pictures that a worker's forward pass sees in training."""
    share = max(1, params.train.batch_size // runtime.most)
    return share if runtime.images_per_step is None else min(share, runtime.images_per_step)


def take(content: Mapping[str, Any], count: int) -> dict[str, Any]:
    """At most `count` images with objects, evenly spread over a prepared split, as a split of their own."""
    objects = {row["image_id"] for row in content["annotations"] if not row.get("iscrowd", 0)}
    images = [image for image in content["images"] if image["id"] in objects] or list(content["images"])
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return part_of(content, [images[place]["id"] for place in places])


def measure_first_step(split: Split, params: Params, grid: Grid, categories: list[dict[str, Any]]) -> FirstStep | None:
    """The class head of a network as training begins; None where its weights cannot be loaded."""
    sections = params.model_dump()
    description = describe_detector(
        **{name: sections[name] for name in ("model", "loss", "transforms")},
        anchors=grid.to_dict(),
        categories=categories,
        run={},
    )
    seed_all(params.seed)
    network = build_network(params, grid, len(categories))
    try:
        load_weights(network, params, description)
    except (ValueError, OSError) as error:
        print(f"the loss at the first step was not computed: {error}", flush=True)
        return None
    # As in training: a norm over the batch has no statistics of its own yet.
    network.train(params.model.norm in ("batch", "sync_batch"))
    sums = torch.zeros(2, dtype=torch.float64)

    def observe(batch: Batch, predictions: Predictions) -> None:
        for logits in predictions.class_logits:
            sums[0] += functional.softplus(logits.float()).double().sum()  # -log(1 - sigmoid(x))
            sums[1] += logits.numel()

    detector = Detector(network, description)
    detector.postprocess = detector.build_postprocess(score_threshold=0.999, candidates_per_level=1)
    batches = EvaluationBatches(split, detector.transforms, batch_size=1)
    for _ in detector.predict(prefetch(batches, processes=0, device=detector.device), observe=observe):
        pass
    return FirstStep(float(sums[0] / sums[1].clamp(min=1)), -math.log(1 - PRIOR))


def measure_trained(detector: Detector, train: Mapping[str, Any], test: Mapping[str, Any], roots: list[str]) -> Trained:
    """Scores of all anchors on the pictures of train, and AP on both samples.

    Args:
        train, test: samples, see take.
        roots: of their pictures.
    """
    counts, highest = torch.zeros(2, dtype=torch.float64), 0.0

    def observe(batch: Batch, predictions: Predictions) -> None:
        nonlocal highest
        for logits in predictions.class_logits:
            scores = logits.float().sigmoid()
            highest = max(highest, float(scores.max()))
            counts.add_(torch.tensor([float((scores > SHOWN).sum()), scores.numel()], dtype=torch.float64))

    aps = []
    for content, root, watch in ((train, roots[0], observe), (test, roots[1], None)):
        found: dict[int, ImageDetections] = {}
        batches = EvaluationBatches(Split(content, root=root), detector.transforms, batch_size=IMAGES_PER_BATCH)
        with Count(len(content["images"]), title="diagnose", units="images") as count:
            loader = prefetch(batches, processes=0, device=detector.device)
            for image_id, one in detector.predict(loader, observe=watch):
                found[image_id] = (one.boxes.numpy(), one.scores.numpy(), one.labels.numpy())
                count()
        fits = len(content["categories"]) == len(detector.class_names)
        aps.append(evaluate_detections(content, found).metrics["AP"] if fits else None)
    share = float(counts[0] / counts[1].clamp(min=1))
    return Trained(detector.class_names, detector.description["model"], highest, share, aps[0], aps[1])


def read_history(path: Path) -> list[Row]:
    """The rows of plots/training.csv; none where it is missing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(text) if text else None for key, text in row.items()} for row in csv.DictReader(file)]
