"""The configuration of the workers of a training or a sweep; the driver makes it from the files of its machine."""

from __future__ import annotations

from pathlib import Path

from pipeline.fit.config import InputFiles, WorkerConfig, with_weights
from pipeline.params import Params
from pipeline.params.paths import picture_root, storage_location
from pipeline.params.runtime import RuntimeConfig
from pipeline.reports.sample_images import choose_sample_images
from pipeline.runs.inputs import ANCHORS, CACHE, SPLITS
from pipeline.runs.weights import find_weights
from pipeline.storage.outs import read_json
from pipeline.tracking.registry import fetch_weights
from retinanet.inference.detector_file import describe_detector


def worker_config(params: Params, runtime: RuntimeConfig, *, digest: str, run: str) -> WorkerConfig:
    """The configuration of every worker, with the files of this machine."""
    content = read_json(SPLITS["train"])
    weights = initial_weights(params, runtime)
    return WorkerConfig(
        params=with_weights(params, None if weights is None else str(weights)),
        runtime=runtime,
        description=describe_detector(
            model=params.model.model_dump(),
            loss=params.loss.model_dump(),
            transforms=params.transforms.model_dump(),
            anchors=read_json(ANCHORS),
            categories=content["categories"],
            run={"digest": digest},
        ),
        data=InputFiles(
            **{name: str(path.resolve()) for name, path in SPLITS.items()},
            root=picture_root(content["info"]["root"], runtime),
            sample_ids=tuple(choose_sample_images(read_json(SPLITS["val"]))),
            run=run,
            cache_folder=f"{CACHE}/pictures",
        ),
    )


def initial_weights(params: Params, runtime: RuntimeConfig) -> Path | None:
    """The local file of model.weights, downloaded if need be; None without weights."""
    return find_weights(params.model, storage=storage_location(runtime), fetch_model=fetch_weights)


def check_weights(params: Params, path: Path | None) -> None:
    """Check that the network of section model can take a file of weights.

    Raises:
        ValueError: naming the settings that the weights need, or why the file cannot be used.
    """
    if path is None or params.model.weights is None:
        return
    from retinanet.inference.initial import check_initial, read_initial  # torchvision takes 2 s to be imported

    name = params.model.weights
    check_initial(read_initial(path, name=name), own=params.model.model_dump(), name=name)
