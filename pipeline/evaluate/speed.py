"""Speed of a detector on the device at hand: decoding, network and post-processing, and its FLOPs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.evaluate.sharing import IMAGES_PER_BATCH
from pipeline.tracking import cpu_model
from retinanet.data.dataset import Batch, EvaluationBatches, copy_to
from retinanet.data.splits import Split
from retinanet.evaluation.analysis import BatchSpeed, Speed
from retinanet.inference.detector import Detector
from retinanet.inference.predict import evaluating
from retinanet.network.model import clear_padding, memory_format, normalise_images
from retinanet.network.precision import convolving_float32
from retinanet.network.predictions import Predictions

MOST_BATCHES, MOST_SECONDS = 12, 1.0  # of a batch size, whichever comes first, beside one batch of warm-up

Value = TypeVar("Value")


def measure_speed(detector: Detector, split: Split) -> Speed:
    """Time the parts of detection for single images and for batches as evaluation has them.

    Nothing overlaps here: decoding runs in this process, where loader processes would run beside the network. Batches
    are left out where a few of them would take longer than MOST_SECONDS. With tiles, times are of whole pictures.
    """
    warm = EvaluationBatches(split, detector.transforms, batch_size=1)[0]
    flops = count_flops(detector, warm)
    single = measure_batches(detector, split, 1)
    batches = [single]
    expected_s = single.network_ms / 1000 * IMAGES_PER_BATCH
    if 2 * expected_s < MOST_SECONDS and len(split.records) >= IMAGES_PER_BATCH:
        batches.append(measure_batches(detector, split, IMAGES_PER_BATCH))
    height, width = warm.padded_size
    on_gpu = detector.device.type == "cuda"
    return Speed(
        device=torch.cuda.get_device_name(detector.device) if on_gpu else cpu_model(),
        threads=None if on_gpu else torch.get_num_threads(),
        height=height,
        width=width,
        flops=flops,
        parameters=sum(weights.numel() for weights in detector.model.parameters()),
        batches=batches,
    )


def measure_batches(detector: Detector, split: Split, batch_size: int) -> BatchSpeed:
    """Median times of each part over some batches of the split, at even steps."""
    batches = EvaluationBatches(split, detector.transforms, batch_size=batch_size)
    # The last batch may be a part of one.
    whole = [position for position, indices in enumerate(batches.batches) if len(indices) == batch_size] or [0]
    chosen = [whole[i * len(whole) // MOST_BATCHES] for i in range(MOST_BATCHES)]
    timed: list[tuple[float, float, float]] = []
    run_parts(detector, batches[chosen[0]])
    start = time.perf_counter()
    for position in chosen:
        decode_s, batch = timing(partial(batches.__getitem__, position), detector.device)
        timed.append((decode_s, *run_parts(detector, batch)))
        if time.perf_counter() - start > MOST_SECONDS:
            break
    inputs = len(batches.batches[chosen[0]])
    tiles = len(batches.split.records) / max(len(split.records), 1)  # of a picture, 1 without tiles
    decode_ms, network_ms, postprocess_ms = (
        1000 * tiles * statistics.median(part) / inputs for part in zip(*timed, strict=True)
    )
    return BatchSpeed(
        batch_size=batch_size,
        decode_ms=decode_ms,
        network_ms=network_ms,
        postprocess_ms=postprocess_ms,
        images_per_s=1000 / (decode_ms + network_ms + postprocess_ms),
    )


def run_parts(detector: Detector, batch: Batch) -> tuple[float, float]:
    """Seconds of the network, with the copy to its device, and of the post-processing."""
    network_s, predictions = timing(lambda: run_network(detector, batch), detector.device)
    sizes = batch.image_sizes
    post_s, _ = timing(
        lambda: [
            [field.cpu() for field in found]
            for found in detector.postprocess(predictions, copy_to(sizes, detector.device), batch.padded_size)
        ],
        detector.device,
    )
    return network_s, post_s


@torch.no_grad()
def run_network(detector: Detector, batch: Batch) -> Predictions:
    """The raw outputs of a batch, as retinanet.inference.predict computes them."""
    mean, std = list(detector.transforms.mean), list(detector.transforms.std)
    images = normalise_images(copy_to(batch.images, detector.device), mean, std)
    images = clear_padding(images, batch.image_sizes.tolist())
    with evaluating(detector.model), convolving_float32("ieee"):
        predictions: Predictions = detector.model(images.contiguous(memory_format=memory_format(detector.model)))
    return predictions


def count_flops(detector: Detector, batch: Batch) -> int:
    """Floating-point operations of the network for the first image of a batch; a multiply-add counts as two."""
    counter = FlopCounterMode(display=False)
    with counter:
        run_network(detector, batch)
    return counter.get_total_flops() // len(batch.image_ids)


def timing(work: Callable[[], Value], device: torch.device) -> tuple[float, Value]:
    """Seconds until the work is done on the device, and its result."""
    start = time.perf_counter()
    value = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, value
