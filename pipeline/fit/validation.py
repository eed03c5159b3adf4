"""AP during training, on the validation split and at the end on training pictures; each worker detects on its share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.cluster.worker import Worker
from pipeline.fit.config import WorkerConfig
from pipeline.params.experiment import Train
from pipeline.runs.inputs import fetch
from pipeline.storage.outs import read_json
from retinanet.data.dataset import Batch, EvaluationBatches, prefetch
from retinanet.data.splits import Split, part_of
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections, pack_detections, unpack_detections
from retinanet.evaluation.score_matches import describe_candidates
from retinanet.inference.detector import Detector, build_network
from retinanet.network.predictions import Predictions
from retinanet.training.distributed import broadcast_state
from retinanet.training.state import TrainingState
from retinanet.training.validation_loss import ValidationLoss

TRAIN_PICTURES = 100
TRAIN_SEED = 1  # of the choice: not `seed`, so that runs that differ in it alone are measured on the same pictures


def is_evaluated(epoch: int, train: Train) -> bool:
    """Every evaluate_every epochs (1-based), and after the last."""
    return epoch % train.evaluate_every == 0 or epoch == train.epochs


def validate(
    state: TrainingState, config: WorkerConfig, split: Split, worker: Worker, *, epoch: int
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Evaluate on the validation split; each worker detects on its share.

    Post-processing has the paper's values, not those of section `postprocess`: training must not depend on parameters
    of evaluation, and AP stays comparable between runs that differ in them.

    Returns:
        The 12 COCO numbers, AP of each class and the losses on the split, the same in every worker; and, in the first
        worker only, the candidates for the working point (see retinanet/evaluation/working_point.py).
    """
    detector = Detector(state.inference_network, dict(config.description))
    losses = ValidationLoss(state.criterion, worker.device)
    detections = detect_together(detector, split, config, worker, observe=losses.add)
    metrics = candidates = None
    if detections is not None:
        show(worker, config, detections, epoch=epoch)
        metrics = evaluate(config, detections)
        candidates = count_scores(config, detections, lowest=detector.postprocess.score_threshold)
    return {**of_first_worker(metrics, worker), **losses.means()}, candidates


def measure_on_training(weights: Mapping[str, Tensor] | None, config: WorkerConfig, worker: Worker) -> float | None:
    """AP on at most TRAIN_PICTURES training pictures, without augmentation; post-processing as of validate.

    Args:
        weights: of the detector; the first worker gives them to the others.

    Returns:
        The same in every worker; None without ground truth.
    """
    network = build_network(dict(config.description))
    if worker.rank == 0:
        assert weights is not None, "the first worker has the best detector"
        network.load_state_dict(weights)
    network.to(worker.device)
    broadcast_state(network)
    content = choose_pictures(read_json(fetch(config.data.train)))
    split = Split(content, root=config.data.root, cache_folder=config.data.cache_folder)
    detector = Detector(network.to(memory_format=torch.channels_last).eval(), dict(config.description))
    detections = detect_together(detector, split, config, worker)
    ap = None if detections is None else evaluate_detections(content, detections).metrics["AP"]
    measured: float | None = of_first_worker(ap, worker)
    return measured


def choose_pictures(content: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures of the training split on which AP is measured, as a split of their own; the data alone decide."""
    images = content["images"]
    count = min(TRAIN_PICTURES, len(images))
    chosen = np.random.default_rng(TRAIN_SEED).choice(len(images), count, replace=False)
    return part_of(content, [images[place]["id"] for place in sorted(chosen.tolist())])


def detect_together(
    detector: Detector,
    split: Split,
    config: WorkerConfig,
    worker: Worker,
    *,
    observe: Callable[[Batch, Predictions], object] | None = None,
) -> dict[int, ImageDetections] | None:
    """Detect on a split, each worker on its share (a collective); observe as of predict.

    Returns:
        All detections by image id, in the first worker; None in the others.
    """
    batches = EvaluationBatches(split, detector.transforms, rank=worker.rank, num_workers=worker.num_workers)
    read = prefetch(batches, processes=config.runtime.loader_processes, device=worker.device)
    mine = {
        image_id: (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy())
        for image_id, d in detector.predict(read, observe=observe)
    }
    if worker.num_workers == 1:
        return mine
    shares: list[Any] | None = [None] * worker.num_workers if worker.rank == 0 else None
    dist.gather_object(pack_detections(mine), shares)
    if shares is None:
        return None
    return {image_id: found for share in shares for image_id, found in unpack_detections(share).items()}


def of_first_worker(value: Any, worker: Worker) -> Any:
    """The first worker's value, in all workers (a collective)."""
    values = [value]
    if worker.num_workers > 1:
        dist.broadcast_object_list(values)
    return values[0]


def show(worker: Worker, config: WorkerConfig, detections: Mapping[int, ImageDetections], *, epoch: int) -> None:
    """Send the detections on the watched pictures to the driver: per image boxes, scores, labels."""
    found = {image_id: [field.tolist() for field in detections[image_id]] for image_id in config.data.sample_ids}
    worker.send_event({"kind": "detections", "epoch": epoch, "found": found})


def evaluate(config: WorkerConfig, detections: Mapping[int, Any]) -> dict[str, Any]:
    """The 12 COCO numbers of detections on the validation split, and per_class.<name>.AP."""
    metrics = evaluate_detections(read_json(fetch(config.data.val)), detections).metrics
    return {name: value for name, value in metrics.items() if "." not in name or name.endswith(".AP")}


def count_scores(config: WorkerConfig, detections: Mapping[int, Any], *, lowest: float) -> dict[str, Any]:
    """Candidates for the working point from detections on the validation split; lowest: their score threshold."""
    return describe_candidates(read_json(fetch(config.data.val)), detections, lowest=lowest)
