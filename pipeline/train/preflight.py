"""Preflight checks of a training, before torch and Ray are imported."""

from __future__ import annotations

from pathlib import Path

from pipeline.params import Params
from pipeline.params.paths import resolve_input
from pipeline.params.runtime import RuntimeConfig
from pipeline.runs.inputs import BUILT_IN
from pipeline.storage.outs import demand_file, read_json

SPLITS = {name: Path(f"data/prepared/{name}.json") for name in ("train", "val")}
ANCHORS = Path("anchors.json")


def check_inputs(params: Params) -> None:
    """Raise ValueError for a missing input, or a list of alphas that does not match the classes of the data.

    Raises:
        ValueError: naming it.
    """
    for path in (*SPLITS.values(), ANCHORS):
        demand_file(path)
    for path in weights_file(params):
        if not path.is_file():
            raise ValueError(
                f"model.weights is {params.model.weights!r}: no such file; expected imagenet or a file with a ResNet's "
                "weights"
            )
    if isinstance(params.loss.alpha, list):
        classes = read_json(SPLITS["train"])["categories"]
        complaints = params.loss.check_classes(len(classes), f"the {len(classes)} classes of the data")
        if complaints:
            raise ValueError(complaints[0])


def weights_file(params: Params) -> list[Path]:
    """Return the file in model.weights, if it is one."""
    weights = params.model.weights
    return [] if weights in BUILT_IN else [Path(resolve_input(weights, name="model.weights"))]


def check_share(params: Params, runtime: RuntimeConfig) -> None:
    """Check params.yaml against conf/; raise an error for a conflict, print a note on a dependence.

    Raises:
        ValueError: when there are more workers than images in a batch, or the norm needs what conf/ does not give.
    """
    complaint = conflict(params, runtime)
    if complaint is not None:
        raise ValueError(complaint)
    if params.model.norm == "batch" and (runtime.most > 1 or runtime.images_per_step is not None):
        print(
            "model.norm is batch: each worker normalises over its own images, so the result depends on conf/",
            flush=True,
        )


def conflict(params: Params, runtime: RuntimeConfig) -> str | None:
    """Return why params.yaml cannot be trained with this conf/, in one sentence; None if it can."""
    norm = params.model.norm
    if runtime.most > params.train.batch_size:
        return (
            f"workers is {runtime.most} in conf/, more than the images of a batch (train.batch_size "
            f"{params.train.batch_size}); use fewer workers"
        )
    if norm == "sync_batch" and runtime.gpus_per_worker == 0:
        return (
            "model.norm is sync_batch, which torch computes on GPUs only, but gpus_per_worker is 0 in conf/; choose a "
            "file of conf/ with GPUs (PIPELINE_CONF=conf/gpu.yaml), or model.norm: group"
        )
    if norm == "sync_batch" and runtime.images_per_step is not None:
        return (
            f"images_per_step is {runtime.images_per_step} in conf/, but model.norm is sync_batch, which must see "
            "the whole batch at once; set images_per_step: null, or use another norm"
        )
    if runtime.recompute and norm in ("batch", "sync_batch"):
        return (
            f"recompute is true in conf/, but model.norm is {norm}, whose statistics it would update "
            "twice; set recompute: false, or use another norm"
        )
    return None
