"""Detect on a share of a split, in the process of the command or in a worker of Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.evaluate.sharing import IMAGES_PER_BATCH, DetectionConfig
from pipeline.runs.inputs import check_pictures, fetch
from retinanet.data.dataset import EvaluationBatches, prefetch
from retinanet.data.splits import Split, load_split
from retinanet.evaluation.coco_eval import ImageDetections, PackedDetections, pack_detections
from retinanet.inference.detector import Detector


def load(config: DetectionConfig, model: Path, device: str) -> Detector:
    """Load the detector from a local file, with the post-processing of the configuration."""
    detector = Detector.load(model, device)
    detector.postprocess = detector.build_postprocess(**config.postprocess)
    return detector


def detect(
    detector: Detector,
    split: Split,
    *,
    processes: int,
    rank: int = 0,
    shares: int = 1,
    count: Callable[[], object] = lambda: None,
) -> dict[int, ImageDetections]:
    """Detections of every image of a share by its id, in px of the original image.

    A share is every `shares`-th batch, from batch `rank` on; it has all tiles of an image. The batches, and so the
    detections of an image, do not depend on the number of shares.

    Args:
        processes: loader processes.
        count: called after every image.
    """
    batches = EvaluationBatches(split, detector.transforms, batch_size=IMAGES_PER_BATCH, rank=rank, num_workers=shares)
    found: dict[int, ImageDetections] = {}
    for image_id, d in detector.predict(prefetch(batches, processes=processes, device=detector.device)):
        found[image_id] = (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy())
        count()
    return found


def prepare_worker(config: DetectionConfig, shares: int) -> Callable[[int], PackedDetections]:
    """Load detector and split in a worker; the function that detects on the share of a rank.

    Raises:
        ValueError: naming what this node cannot read.
    """
    torch.set_num_threads(config.threads)
    check_pictures(config.root)
    split = load_split(fetch(config.split), root=config.root, cache_folder=config.cache_folder)
    detector = load(config, fetch(config.model), config.device)
    return lambda rank: pack_detections(detect(detector, split, processes=config.processes, rank=rank, shares=shares))
