"""Anchors that fit the ground-truth boxes: sizes and aspect ratios, with as many anchors per cell as given.

The parametrisation is that of the paper (sizes base_scale * stride * 2^(i / scales_per_octave), one list of ratios for
all levels), or sizes of their own for every level where they gain something. The objective is what training needs: the
mean IoU of a box with its best anchor of the real grid, and the recall at the matcher's foreground threshold, with
equal weight. The search is a differential evolution (Storn and Price 1997), as in keras-retinanet's anchor optimizer.
It has a seed of its own, so that trainings with several seeds share their anchors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import OptimizeResult, differential_evolution, minimize
from torch import Tensor

from pipeline.anchor_stats.grid import anchor_grid
from pipeline.params.detector import Anchors
from retinanet.anchors.grid import Shapes
from retinanet.anchors.overlaps import lowest_best_iou

SEED = 0
MOST_BOXES = 2000  # an even sample: the mean of so many IoUs is known to .005
BOXES_AT_ONCE = 2**14  # 120 MB with 45 shapes
WORTH_FITTING = 0.001  # gain in Quality.score for which the given anchors are replaced
WORTH_SIZES = 0.005  # gain for which every level gets sizes of its own
BASE_SCALES = (0.5, 16.0)
RATIOS = (1 / 8, 8.0)


class Quality(NamedTuple):
    """How well anchors fit boxes.

    Attributes:
        mean_iou: mean IoU of a box with its best anchor.
        recall: share of the boxes whose best IoU reaches the foreground threshold.
    """

    mean_iou: float
    recall: float

    @property
    def score(self) -> float:
        """The mean of both."""
        return (self.mean_iou + self.recall) / 2


class Boxes(NamedTuple):
    """What anchors are fitted to.

    Attributes:
        boxes: [M, 4] px at training scale; M > 0.
        image_size: height and width that hold every image, px.
        foreground_iou: of the matcher.
    """

    boxes: Tensor
    image_size: tuple[int, int]
    foreground_iou: float

    def sample(self) -> Boxes:
        """At most MOST_BOXES of them, at even steps."""
        chosen = np.linspace(0, len(self.boxes) - 1, min(MOST_BOXES, len(self.boxes))).round().astype(int)
        return self._replace(boxes=self.boxes[torch.from_numpy(chosen)])

    def quality(self, anchors: Anchors) -> Quality:
        """How well the grid of these anchors fits."""
        return self.quality_of(anchor_grid(anchors).shapes(self.image_size))

    def quality_of(self, shapes: Shapes) -> Quality:
        """How well a grid of these shapes fits; the number of threads does not change the last bit."""
        best = torch.cat([lowest_best_iou(part, shapes) for part in self.boxes.split(BOXES_AT_ONCE)]).numpy()
        return Quality(float(best.mean(dtype=np.float64)), float((best >= self.foreground_iou).mean()))


def fit_anchors(boxes: Boxes, anchors: Anchors) -> Anchors:
    """Fit sizes and aspect_ratios; the score is never worse than that of the given anchors.

    Args:
        anchors: where the search starts; if it has `sizes`, their number per level counts as scales_per_octave.

    Returns:
        The section with mode fixed and three significant digits in what was fitted; equal arguments give equal results.
    """
    given, sample = anchors.model_copy(update={"mode": "fixed"}), boxes.sample()
    fitted = fit_base_scale(sample, given)
    free = fit_sizes(sample, fitted)
    if boxes.quality(free).score > boxes.quality(fitted).score + WORTH_SIZES:
        fitted = free
    return fitted if boxes.quality(fitted).score > boxes.quality(given).score + WORTH_FITTING else given


def fit_base_scale(boxes: Boxes, anchors: Anchors) -> Anchors:
    """Fit base_scale and aspect_ratios (differential evolution, then Nelder and Mead 1965)."""
    per_octave = anchors.scales_per_octave if anchors.sizes is None else len(anchors.sizes[0])
    start = anchors.model_copy(update={"sizes": None, "scales_per_octave": per_octave})

    def section(point: Sequence[float]) -> Anchors:
        base_scale, *ratios = (float(f"{math.exp(value):.3g}") for value in point)
        return start.model_copy(update={"base_scale": base_scale, "aspect_ratios": sorted(ratios)})

    loss = loss_of(boxes, section)
    bounds = [(math.log(low), math.log(high)) for low, high in (BASE_SCALES, *[RATIOS] * len(start.aspect_ratios))]
    first = [math.log(start.base_scale), *map(math.log, start.aspect_ratios)]
    first = [min(max(value, low), high) for value, (low, high) in zip(first, bounds, strict=True)]
    found: OptimizeResult = differential_evolution(
        loss, bounds, x0=first, maxiter=12, popsize=8, rng=SEED, polish=False, init="sobol"
    )
    polished = minimize(loss, found.x, method="Nelder-Mead", options={"maxfev": 200, "xatol": 1e-3, "fatol": 1e-5})
    return section(min((polished.x, found.x), key=loss))


def fit_sizes(boxes: Boxes, anchors: Anchors) -> Anchors:
    """Fit the sizes of every level and the ratios, from anchors with one base scale on (COBYLA, Powell 1994)."""
    sizes = anchor_grid(anchors).sizes
    each, count = len(sizes[0]), sum(map(len, sizes))

    def section(point: Sequence[float]) -> Anchors:
        values = [float(f"{math.exp(value):.3g}") for value in point]
        by_level = [sorted(values[i : i + each]) for i in range(0, count, each)]
        return anchors.model_copy(
            update={"scales_per_octave": None, "sizes": by_level, "aspect_ratios": sorted(values[count:])}
        )

    first = [math.log(value) for value in (*(side for level in sizes for side in level), *anchors.aspect_ratios)]
    options = {"maxiter": 1500, "rhobeg": 0.2}
    return section(minimize(loss_of(boxes, section), first, method="COBYLA", options=options).x)


def loss_of(boxes: Boxes, section: Callable[[Sequence[float]], Anchors]) -> Callable[[Sequence[float]], float]:
    """What a search minimises, given the section at each of its points."""
    return lambda point: -boxes.quality(section(point)).score


def as_settings(anchors: Anchors) -> str:
    """The sizes and ratios as text."""
    sizes = ("base_scale", "scales_per_octave") if anchors.sizes is None else ("sizes",)
    return ", ".join(f"{key} {getattr(anchors, key)}" for key in (*sizes, "aspect_ratios"))


def as_options(anchors: Anchors) -> str:
    """The options of `dvc exp run` that set these anchors."""
    keys = ("mode", "base_scale", "scales_per_octave", "sizes", "aspect_ratios")
    values = {key: getattr(anchors, key) for key in keys}
    texts = {key: value if key == "mode" else json.dumps(value).replace(" ", "") for key, value in values.items()}
    return " ".join(f"-S 'anchors.{key}={text}'" for key, text in texts.items())
