"""Inference: forward pass and post-processing, in IEEE float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from retinanet.data.dataset import Batch, copy_to
from retinanet.inference.joining import TileDetections
from retinanet.inference.postprocess import Detections, Postprocess, rescale_detections
from retinanet.network.model import clear_padding, memory_format, normalise_images
from retinanet.network.precision import convolving_float32
from retinanet.network.predictions import Predictions


@torch.no_grad()
def predict(
    model: nn.Module,
    postprocess: Postprocess,
    batches: Iterable[Batch],
    *,
    mean: list[float],
    std: list[float],
    device: torch.device,
    observe: Callable[[Batch, Predictions], object] | None = None,
) -> Iterator[TileDetections]:
    """Detect on batches, in IEEE float32 whatever precision trained; between batches the model is in its own mode.

    Args:
        observe: is called with each batch and its raw outputs, e.g. to compute losses.

    Yields:
        The detections of every image, which is a tile or a picture, on the CPU.
    """
    for batch in batches:
        images = normalise_images(copy_to(batch.images, device), mean, std)
        images = clear_padding(images, batch.image_sizes.tolist()).contiguous(memory_format=memory_format(model))
        with evaluating(model), convolving_float32("ieee"):
            predictions = model(images)
        if observe is not None:
            observe(batch, predictions)
        found = postprocess(predictions, copy_to(batch.image_sizes, device), batch.padded_size)
        for i, detections in enumerate(found):
            factor_y, factor_x = (batch.original_sizes[i] / batch.image_sizes[i]).tolist()
            scaled = rescale_detections(detections, factor_y, factor_x)
            (top, left), (height, width) = batch.corners[i], batch.original_sizes[i].tolist()
            window = (left, top, left + width, top + height)
            yield TileDetections(batch.image_ids[i], window, Detections(*(field.cpu() for field in scaled)))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode while the body runs; afterwards restore the mode of every module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
