"""Share the detection among the workers of Ray; imports neither Ray nor the detector before they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cli.progress import Count
from pipeline.params.paths import storage_location
from pipeline.params.runtime import RuntimeConfig, is_elsewhere
from pipeline.runs.inputs import CACHE, publish
from retinanet.evaluation.coco_eval import ImageDetections, PackedDetections, unpack_detections

IMAGES_PER_BATCH = 8


@dataclass(frozen=True)
class DetectionConfig:
    """The configuration of a process that detects.

    Attributes:
        model, split: the files of the detector and of the split, as absolute paths or URLs, because workers run
            elsewhere.
        root: of the pictures.
        postprocess: section `postprocess`.
        device: cpu or cuda.
        threads, processes: of a worker, and of its loader.
        cache_folder: for pictures of a URL, on the disk of each node.
    """

    model: str
    split: str
    root: str
    postprocess: dict[str, Any]
    device: str
    threads: int
    processes: int
    cache_folder: str = f"{CACHE}/pictures"


def is_shared(runtime: RuntimeConfig, num_images: int) -> bool:
    """Whether Ray's workers detect: on a cluster, or on several GPUs, which one process cannot use.

    A process on this machine uses all its cores already, without the start of Ray. A single batch cannot be shared.
    """
    several_gpus = runtime.most * runtime.gpus_per_worker > 1
    return num_images > IMAGES_PER_BATCH and (is_elsewhere(runtime.address) or several_gpus)


def detect_on_ray(
    config: DetectionConfig, runtime: RuntimeConfig, num_images: int, num_tiles: int
) -> dict[int, ImageDetections]:
    """Detections of every image by its id, in px of the original image, in any order.

    Args:
        num_tiles: of all images together; num_images where they are not cut.

    Raises:
        StoppedError, ValueError, RuntimeError: as of cluster.start_ray and do_pieces.
    """
    from pipeline import cluster
    from pipeline.cluster.pieces import PIECES_PER_WORKER, do_pieces

    resources = cluster.Resources.of(runtime)
    shares = min(math.ceil(num_tiles / IMAGES_PER_BATCH), num_images, PIECES_PER_WORKER * resources.most)
    found: dict[int, ImageDetections] = {}
    with cluster.start_ray(runtime.address, resources):
        if is_elsewhere(runtime.address):
            config = publish_files(config, storage_location(runtime))
        workers = runtime.fewest if runtime.fewest == runtime.most else f"{runtime.fewest} to {runtime.most}"
        print(f"detecting on {num_images} images with {workers} workers", flush=True)
        with Count(num_images, title="evaluate", units="images") as count:
            for share in do_pieces(partial(prepare, config, shares), range(shares), resources=resources):
                found |= unpack_detections(share)
                count(len(share.image_ids))
    return found


def publish_files(config: DetectionConfig, storage: str) -> DetectionConfig:
    """Copy the files of this machine to the storage; the configuration that names them there."""
    model, split = (publish(Path(path), storage) for path in (config.model, config.split))
    return replace(config, model=model, split=split)


def prepare(config: DetectionConfig, shares: int) -> Callable[[int], PackedDetections]:
    """See prepare_worker; the driver, which passes this function on, does not import what it needs."""
    from pipeline.evaluate.detection import prepare_worker

    return prepare_worker(config, shares)
