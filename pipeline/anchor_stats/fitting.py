"""Anchors that fit the ground-truth boxes: base scale and aspect ratios with the best mean IoU.

The parametrisation is that of the paper (sizes base_scale * stride * 2^(i / scales_per_octave), one list of ratios for
all levels), the objective the mean best IoU of a box with any anchor of the real grid, the search a differential
evolution (Storn and Price 1997), as in keras-retinanet's anchor optimizer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import OptimizeResult, differential_evolution, minimize
from torch import Tensor

from pipeline.anchor_stats.grid import anchor_grid
from pipeline.params.detector import Anchors
from retinanet.anchors.overlaps import lowest_best_iou

MOST_BOXES = 2000  # an even sample: the mean of so many IoUs is known to .005
WORTH_SIZES = 0.005  # mean IoU that sizes of their own for every level must gain
BASE_SCALES = (0.5, 16.0)
RATIOS = (1 / 8, 8.0)


def fit_anchors(boxes: Tensor, image_size: tuple[int, int], anchors: Anchors, *, seed: int = 0) -> Anchors:
    """Fit base_scale and aspect_ratios, with as many anchors per cell as given; never worse than the given ones.

    Args:
        boxes: [M, 4] px at training scale; M > 0.
        image_size: height and width that hold every image, px.
        anchors: where the search starts; if it has `sizes`, their number per level counts as scales_per_octave.

    Returns:
        The section with three significant digits in what was fitted; equal arguments give equal results.
    """
    chosen = np.linspace(0, len(boxes) - 1, min(MOST_BOXES, len(boxes))).round().astype(int)
    sample = boxes[torch.from_numpy(chosen)]
    per_octave = anchors.scales_per_octave if anchors.sizes is None else len(anchors.sizes[0])
    start = anchors.model_copy(update={"sizes": None, "scales_per_octave": per_octave})

    def loss(point: Sequence[float]) -> float:
        return -mean_best_iou(sample, image_size, at_point(start, point))

    count = len(anchors.aspect_ratios)
    bounds = [tuple(map(math.log, BASE_SCALES))] + [tuple(map(math.log, RATIOS))] * count
    first = [math.log(start.base_scale), *map(math.log, start.aspect_ratios)]
    first = [min(max(value, low), high) for value, (low, high) in zip(first, bounds, strict=True)]
    found: OptimizeResult = differential_evolution(
        loss, bounds, x0=first, maxiter=12, popsize=8, rng=seed, polish=False, init="sobol"
    )
    polished = minimize(loss, found.x, method="Nelder-Mead", options={"maxfev": 200, "xatol": 1e-3, "fatol": 1e-5})
    best = min((polished.x, found.x), key=loss)
    fitted = at_point(start, [best[0], *sorted(best[1:])])
    free = fit_sizes(sample, image_size, fitted)
    if mean_best_iou(boxes, image_size, free) > mean_best_iou(boxes, image_size, fitted) + WORTH_SIZES:
        fitted = free
    return fitted if mean_best_iou(boxes, image_size, fitted) > mean_best_iou(boxes, image_size, anchors) else anchors


def fit_sizes(sample: Tensor, image_size: tuple[int, int], anchors: Anchors) -> Anchors:
    """Fit the sizes of every level and the ratios, from anchors with one base scale on (COBYLA, Powell 1994)."""
    sizes = anchor_grid(anchors).sizes
    count = sum(map(len, sizes))
    first = [math.log(value) for value in (*(side for level in sizes for side in level), *anchors.aspect_ratios)]

    def section(point: Sequence[float]) -> Anchors:
        values = [float(f"{math.exp(value):.3g}") for value in point]
        each = len(sizes[0])
        by_level = [sorted(values[i : i + each]) for i in range(0, count, each)]
        return anchors.model_copy(
            update={"scales_per_octave": None, "sizes": by_level, "aspect_ratios": sorted(values[count:])}
        )

    found = minimize(
        lambda point: -mean_best_iou(sample, image_size, section(point)),
        first,
        method="COBYLA",
        options={"maxiter": 1500, "rhobeg": 0.2},
    )
    return section(found.x)


def at_point(anchors: Anchors, point: Sequence[float]) -> Anchors:
    """The section at the logarithms of base_scale and of the ratios."""
    base_scale, *ratios = (float(f"{math.exp(value):.3g}") for value in point)
    return anchors.model_copy(update={"base_scale": base_scale, "aspect_ratios": ratios})


def mean_best_iou(boxes: Tensor, image_size: tuple[int, int], anchors: Anchors) -> float:
    """Mean over [M, 4] boxes of the IoU with the best anchor of the grid of an image of that size."""
    return float(lowest_best_iou(boxes, anchor_grid(anchors).shapes(image_size)).double().mean())


def as_command(anchors: Anchors) -> str:
    """The command that tries these anchors."""
    values: dict[str, object] = {"base_scale": anchors.base_scale, "scales_per_octave": anchors.scales_per_octave}
    values |= {"sizes": anchors.sizes, "aspect_ratios": anchors.aspect_ratios}
    texts = {key: json.dumps(value).replace(" ", "") for key, value in values.items()}
    return "dvc exp run " + " ".join(f"-S 'anchors.{key}={text}'" for key, text in texts.items())
