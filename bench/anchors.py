"""Fitted anchors beside those of the peers' searches, with as many anchors per cell, on the boxes of prepared projects.

    python -m bench.anchors PROJECT...

PROJECT holds params.yaml and data/prepared/train.json. Every contender is judged by the mean IoU of a box, at training
scale, with the best anchor of the real grid. Peers: k-means with the distance 1 - IoU (Redmon and Farhadi 2017), and
its result evolved by mutation with the fitness of Ultralytics' AutoAnchor. Both find C shapes per level on five levels,
by area from P3 to P7; the paper's and ours are one base scale and three ratios.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.ratios import table
from pipeline.anchor_stats.fitting import fit_anchors, mean_best_iou
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.run import at_training_scale
from pipeline.params import load_params
from pipeline.params.detector import Anchors
from retinanet.anchors.overlaps import lowest_best_iou
from retinanet.data.records import Records

Sides = npt.NDArray[np.float64]
"""[N, 2] width and height, px."""
GENERATIONS, MUTATION_RATE, SIGMA = 1000, 0.9, 0.1  # Ultralytics' values
THRESHOLD = 4.0


def main() -> None:
    """One row per project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=Path, nargs="+")
    rows = [[project.name, *map("{:.4f}".format, compare(project))] for project in parser.parse_args().projects]
    print(table(["project", "paper", "params.yaml", "k-means", "k-means, evolved", "fitted (ours)"], rows))


def compare(project: Path) -> Iterator[float]:
    """Mean best IoU of every contender."""
    params = load_params(project / "params.yaml")
    records = Records(json.loads((project / "data/prepared/train.json").read_text()))
    scaled = list(at_training_scale(records, params.transforms))
    boxes = torch.cat([found for _, found, _ in scaled])
    height, width = (max(side) for side in zip(*(size for _, _, size in scaled), strict=True))
    size, anchors = (height, width), params.anchors
    paper = {"base_scale": 4.0, "scales_per_octave": 3, "sizes": None, "aspect_ratios": [0.5, 1.0, 2.0]}
    yield mean_best_iou(boxes, size, anchors.model_copy(update=paper))
    yield mean_best_iou(boxes, size, anchors)
    sides = (boxes[:, 2:] - boxes[:, :2]).double().numpy()
    clusters = k_means(sides, 5 * anchor_grid(anchors).anchors_per_cell)
    yield on_grid(clusters, boxes, size, anchors)
    yield on_grid(evolve(clusters, sides), boxes, size, anchors)
    yield mean_best_iou(boxes, size, fit_anchors(boxes, size, anchors))


def iou(one: Sides, other: Sides) -> npt.NDArray[np.float64]:
    """[N, K] IoU of boxes with one centre."""
    inter = np.minimum(one[:, None], other).prod(axis=2)
    union = one.prod(axis=1)[:, None] + other.prod(axis=1) - inter
    return np.asarray(inter / union)


def k_means(sides: Sides, count: int, rounds: int = 100) -> Sides:
    """Cluster centres, seeded; the centre of a cluster is its median."""
    rng = np.random.default_rng(0)
    centres = sides[rng.choice(len(sides), count, replace=len(sides) < count)]
    for _ in range(rounds):
        nearest = iou(sides, centres).argmax(axis=1)
        moved = np.array(
            [np.median(sides[nearest == k], axis=0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def evolve(centres: Sides, sides: Sides) -> Sides:
    """Mutate the centres and keep what fits better, as Ultralytics' AutoAnchor."""
    rng = np.random.default_rng(0)
    best, fitness = centres, fitness_of(centres, sides)
    for _ in range(GENERATIONS):
        factors = np.ones_like(best)
        while (factors == 1).all():
            chosen = rng.random(best.shape) < MUTATION_RATE
            factors = (chosen * rng.random() * rng.standard_normal(best.shape) * SIGMA + 1).clip(0.3, 3.0)
        mutated = (best * factors).clip(2.0)
        if (found := fitness_of(mutated, sides)) > fitness:
            best, fitness = mutated, found
    return best


def fitness_of(centres: Sides, sides: Sides) -> float:
    """Mean over the boxes of the best worst ratio of sides, where it is above 1 / THRESHOLD."""
    ratio = sides[:, None] / centres
    best = np.minimum(ratio, 1 / ratio).min(axis=2).max(axis=1)
    return float((best * (best > 1 / THRESHOLD)).mean())


def on_grid(shapes: Sides, boxes: Tensor, size: tuple[int, int], anchors: Anchors) -> float:
    """Mean best IoU with these shapes on the grid, by area from the finest level to the coarsest."""
    grid = anchor_grid(anchors).shapes(size)
    ordered = torch.from_numpy(shapes[np.argsort(shapes.prod(axis=1))])
    corners = torch.cat([-ordered, ordered], dim=1) / 2
    return float(lowest_best_iou(boxes, grid._replace(corners=corners)).double().mean())


if __name__ == "__main__":
    main()
