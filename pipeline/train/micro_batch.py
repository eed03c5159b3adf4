"""The size of a micro-batch, halved when a worker runs out of memory."""

from __future__ import annotations

from dataclasses import replace

from pipeline.fit.config import WorkerConfig
from pipeline.runs.identity import RunFolder

IMAGES_PER_STEP = "images_per_step"  # the file of a run's folder with the number that fits the memory


def with_images_per_step(config: WorkerConfig, images: int) -> WorkerConfig:
    """The configuration with another number of images that a worker holds at once."""
    return replace(config, runtime=config.runtime.model_copy(update={"images_per_step": images}))


def with_at_most(config: WorkerConfig, images: int) -> WorkerConfig:
    """The configuration with a micro-batch of at most this number of images."""
    chosen = config.runtime.images_per_step
    share = config.params.train.batch_size if chosen is None else chosen
    return config if images >= share else with_images_per_step(config, images)


def halve_images(config: WorkerConfig, *, workers: int, error: BaseException) -> int:
    """Half of the images of a micro-batch.

    Raises:
        RuntimeError: when it was one image, or the norm needs the whole batch.
    """
    share = -(-config.params.train.batch_size // workers)
    chosen = config.runtime.images_per_step
    held = share if chosen is None else min(chosen, share)
    reason = str(error).partition("\n")[0]
    if config.params.model.norm == "sync_batch":
        raise RuntimeError(f"out of memory ({reason}); use more workers, or a smaller train.batch_size") from error
    if held == 1:
        raise RuntimeError(
            f"one image does not fit into a worker's memory ({reason}); lower transforms.long_side, or set recompute: "
            "true in conf/"
        ) from error
    half = held // 2
    print(
        f"{held} images do not fit into a worker's memory ({reason}); continuing with micro-batches of {half}, "
        "which changes no result",
        flush=True,
    )
    return half


def keep_size(folder: RunFolder, images_per_step: int | None) -> None:
    """Store the micro-batch size for the next start of this run, with a warning where that fails."""
    if images_per_step is not None:
        try:
            folder.write(IMAGES_PER_STEP, str(images_per_step))
        except ValueError as failure:
            print(f"warning: {failure}", flush=True)
