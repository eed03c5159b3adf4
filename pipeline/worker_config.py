"""The configuration of the workers of a training or a sweep; the driver makes it from the files of its machine."""

from __future__ import annotations

from pipeline.fit.config import InputFiles, WorkerConfig, with_weights
from pipeline.params import Params
from pipeline.params.paths import picture_root
from pipeline.params.runtime import RuntimeConfig
from pipeline.reports.sample_images import choose_sample_images
from pipeline.runs.inputs import ANCHORS, CACHE, SPLITS, weights_file
from pipeline.storage.outs import read_json
from retinanet.inference.detector_file import describe_detector


def worker_config(params: Params, runtime: RuntimeConfig, *, digest: str, run: str) -> WorkerConfig:
    """The configuration of every worker, with the files of this machine."""
    content = read_json(SPLITS["train"])
    weights = weights_file(params)
    return WorkerConfig(
        params=with_weights(params, str(weights[0])) if weights else params,
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
