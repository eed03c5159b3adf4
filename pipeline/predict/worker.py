"""Detect on shards in a worker of Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.detector.calibration import set_postprocess
from pipeline.predict.detection import Failed, detect
from pipeline.predict.inputs import Source
from pipeline.predict.on_ray import WorkerConfig
from pipeline.predict.ray_data import Work
from pipeline.predict.table import to_parquet, to_table
from pipeline.runs.inputs import fetch
from retinanet.inference.detector import Detector


def prepare_worker(config: WorkerConfig) -> Work:
    """Load the detector; the function that detects on the pictures of a shard.

    Raises:
        ValueError: naming what this node cannot read.
    """
    torch.set_num_threads(config.threads)
    if config.root is not None and not Path(config.root).is_dir():
        raise ValueError(
            f"the folder {config.root} does not exist on node {socket.gethostname()}; give pictures in a folder that "
            "every node sees, or a URL, e.g. s3://bucket/pictures"
        )
    detector = Detector.load(fetch(config.model), config.device)
    set_postprocess(detector, lowest=min(config.thresholds), calibrate=config.calibrate)
    return lambda locations: detect_shard(detector, locations, config)


def detect_shard(detector: Detector, locations: Sequence[str], config: WorkerConfig) -> bytes:
    """The Parquet file of a shard.

    Raises:
        ValueError: when a store does not answer: its pictures are not broken.
    """
    # The table has the location as the user gave it.
    sources = [Source(absolute(location, config.folder), location) for location in locations]
    results = list(detect(detector, sources, thresholds=config.thresholds, processes=config.processes))
    for each in results:
        if isinstance(each, Failed) and each.may_heal:
            raise ValueError(f"{each.source.name}: {each.reason}; the same command goes on when its store answers")
    return to_parquet(to_table(results, detector.class_names))


def absolute(location: str, folder: str) -> str:
    """A location as a worker reads it, which runs in another folder."""
    return location if "://" in location else os.path.join(folder, location)
