"""Validation during training; each worker detects on its share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from pipeline.cluster.worker import Worker
from pipeline.fit.config import WorkerConfig
from pipeline.params.experiment import Train
from pipeline.runs.inputs import fetch
from pipeline.storage.outs import read_json
from retinanet.data.dataset import EvaluationBatches, prefetch
from retinanet.data.splits import Split
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections, pack_detections, unpack_detections
from retinanet.evaluation.score_matches import describe_candidates
from retinanet.inference.detector import Detector
from retinanet.training.state import TrainingState
from retinanet.training.validation_loss import ValidationLoss


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
        The 12 COCO numbers and the losses on the split, the same in every worker; and, in the first worker only, the
        candidates for the working point (see retinanet/evaluation/working_point.py).
    """
    detector = Detector(state.inference_network, dict(config.description))
    batches = EvaluationBatches(split, detector.transforms, rank=worker.rank, num_workers=worker.num_workers)
    processes = config.runtime.loader_processes
    losses = ValidationLoss(state.criterion, worker.device)
    mine = {
        image_id: (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy())
        for image_id, d in detector.predict(
            prefetch(batches, processes=processes, device=worker.device), observe=losses.add
        )
    }
    mean_losses = losses.means()
    metrics: list[Any] = [None]
    lowest = detector.postprocess.score_threshold
    if worker.num_workers == 1:
        show(worker, config, mine, epoch=epoch)
        return evaluate(config, mine) | mean_losses, count_scores(config, mine, lowest=lowest)
    shares: list[Any] | None = [None] * worker.num_workers if worker.rank == 0 else None
    dist.gather_object(pack_detections(mine), shares)
    candidates = None
    if shares is not None:
        everything = {image_id: found for share in shares for image_id, found in unpack_detections(share).items()}
        show(worker, config, everything, epoch=epoch)
        metrics = [evaluate(config, everything)]
        candidates = count_scores(config, everything, lowest=lowest)
    dist.broadcast_object_list(metrics)
    return {**metrics[0], **mean_losses}, candidates


def show(worker: Worker, config: WorkerConfig, detections: Mapping[int, ImageDetections], *, epoch: int) -> None:
    """Send the detections on the watched pictures to the driver: per image boxes, scores, labels."""
    found = {image_id: [field.tolist() for field in detections[image_id]] for image_id in config.data.sample_ids}
    worker.send_event({"kind": "detections", "epoch": epoch, "found": found})


def evaluate(config: WorkerConfig, detections: Mapping[int, Any]) -> dict[str, Any]:
    """The 12 COCO numbers of detections on the validation split."""
    metrics = evaluate_detections(read_json(fetch(config.data.val)), detections).metrics
    return {name: value for name, value in metrics.items() if "." not in name}


def count_scores(config: WorkerConfig, detections: Mapping[int, Any], *, lowest: float) -> dict[str, Any]:
    """Candidates for the working point from detections on the validation split; lowest: their score threshold."""
    return describe_candidates(read_json(fetch(config.data.val)), detections, lowest=lowest)
