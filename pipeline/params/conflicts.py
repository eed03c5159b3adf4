"""Conflicts of params.yaml with conf/: what no worker could train as conf/ sets it up."""

from __future__ import annotations

from pipeline.params import Params
from pipeline.params.runtime import RuntimeConfig


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
    if runtime.cuda_graphs and params.transforms.canvas is None:
        return (
            "cuda_graphs is true in conf/, but transforms.canvas is null, so batches differ in size; set "
            "transforms.canvas to a height and width in px, or cuda_graphs: false"
        )
    if runtime.cuda_graphs and norm == "sync_batch":
        return (
            "cuda_graphs is true in conf/, but model.norm is sync_batch, whose workers talk to each other within the "
            "passes; set cuda_graphs: false, or use another norm"
        )
    if runtime.recompute and norm in ("batch", "sync_batch"):
        return (
            f"recompute is true in conf/, but model.norm is {norm}, whose statistics it would update "
            "twice; set recompute: false, or use another norm"
        )
    return None
