"""AP of the validation split while a run trains, each worker detecting on its share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist

from pipeline.cluster.worker import Worker
from pipeline.fit.config import WorkerConfig
from pipeline.params.experiment import Train
from pipeline.runs.inputs import fetch
from pipeline.storage.outs import read_json
from retinanet.data.dataset import Batch, EvaluationBatches
from retinanet.data.splits import Split
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections, pack_detections, unpack_detections
from retinanet.inference.detector import Detector
from retinanet.training.learner import Learner


def is_evaluated(epoch: int, train: Train) -> bool:
    """Every evaluate_every epochs (1-based), and after the last."""
    return epoch % train.evaluate_every == 0 or epoch == train.epochs


def validate(learner: Learner, config: WorkerConfig, split: Split, worker: Worker) -> dict[str, Any]:
    """AP of the validation split, each worker detecting on its share.

    The post-process has the paper's values, not those of section `postprocess`: training must not depend on what only
    evaluation uses, and AP stays comparable between runs that differ there.

    Returns:
        The 12 COCO numbers, the same in every worker.
    """
    detector = Detector(learner.judged, dict(config.description))
    batches = EvaluationBatches(split, detector.transforms, rank=worker.rank, num_workers=worker.num_workers)
    mine = {
        image_id: (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy())
        for image_id, d in detector.predict(iter_batches(batches))
    }
    metrics: list[Any] = [None]
    if worker.num_workers == 1:
        show(worker, config, mine)
        return judge(config, mine)
    shares: list[Any] | None = [None] * worker.num_workers if worker.rank == 0 else None
    dist.gather_object(pack_detections(mine), shares)
    if shares is not None:
        everything = {image_id: found for share in shares for image_id, found in unpack_detections(share).items()}
        show(worker, config, everything)
        metrics = [judge(config, everything)]
    dist.broadcast_object_list(metrics)
    result: dict[str, Any] = metrics[0]
    return result


def iter_batches(batches: EvaluationBatches) -> Iterator[Batch]:
    """The batches of a split, one after the other."""
    return (batches[position] for position in range(len(batches)))


def show(worker: Worker, config: WorkerConfig, detections: Mapping[int, ImageDetections]) -> None:
    """Tell the driver what was found on the pictures that it watches: per image boxes, scores, labels."""
    found = {image_id: [field.tolist() for field in detections[image_id]] for image_id in config.data.watched}
    worker.tell({"kind": "detections", "found": found})


def judge(config: WorkerConfig, detections: Mapping[int, Any]) -> dict[str, Any]:
    """The 12 COCO numbers of detections on the validation split."""
    metrics = evaluate_detections(read_json(fetch(config.data.val)), detections).metrics
    return {name: value for name, value in metrics.items() if "." not in name}
