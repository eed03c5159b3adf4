"""Padded pixels per image of batches of COCO-like sizes at 800 x 1333 px: a GPU computes them all.

Peers draw a batch per GPU (2 images) and group it by orientation (Detectron2, MMDetection, torchvision). Ours is one
global batch, padded to one size, so that the number of workers changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from retinanet.data.dataset import aspect_ratio
from retinanet.data.sampling import global_batches, orientations
from retinanet.data.transforms import Transforms

NUM_IMAGES = 5000
GLOBAL_BATCH, PEERS_BATCH, EVALUATION_BATCH = 16, 2, 8
# Width and height of the most frequent sizes of COCO's train2017, with rough shares.
SHARES = {
    (640, 480): 0.34,
    (640, 427): 0.17,
    (480, 640): 0.13,
    (640, 426): 0.06,
    (427, 640): 0.055,
    (500, 375): 0.05,
    (640, 428): 0.04,
    (640, 360): 0.03,
    (640, 425): 0.03,
    (375, 500): 0.02,
    (640, 640): 0.02,
    (612, 612): 0.02,
    (500, 333): 0.02,
    (426, 640): 0.02,
    (428, 640): 0.015,
    (333, 500): 0.01,
    (640, 512): 0.01,
}
TRANSFORMS = Transforms()
Size = tuple[int, int]


def draw_sizes(seed: int = 0) -> list[Size]:
    """Height and width of the images, px, in an order that knows nothing of them."""
    shares = np.array(list(SHARES.values()))
    drawn = np.random.default_rng(seed).choice(len(SHARES), NUM_IMAGES, p=shares / shares.sum())
    sizes = list(SHARES)
    return [(sizes[index][1], sizes[index][0]) for index in drawn]


def padded_mpx(batches: Sequence[Sequence[int]], sizes: Sequence[Size]) -> float:
    """Mean padded size of an image, 10^6 px."""
    resized = [TRANSFORMS.resized_size(size, TRANSFORMS.for_evaluation) for size in sizes]
    padded = [TRANSFORMS.padded_size_of([resized[index] for index in batch]) for batch in batches]
    pixels = sum(len(batch) * height * width for batch, (height, width) in zip(batches, padded, strict=True))
    return pixels / sum(map(len, batches)) / 1e6


def evaluation_batches(order: Sequence[int]) -> list[Sequence[int]]:
    """Consecutive batches of an order."""
    return [order[start : start + EVALUATION_BATCH] for start in range(0, len(order), EVALUATION_BATCH)]


def compare() -> dict[str, float]:
    """Padded 10^6 px per image by kind of batch; the last of each kind is what this project does."""
    sizes = draw_sizes()
    alike, groups = [0] * NUM_IMAGES, orientations(torch.tensor(sizes))
    in_order = list(range(NUM_IMAGES))
    return {
        "training, peers: 2 per GPU by orientation": padded_mpx(
            global_batches(groups, PEERS_BATCH, seed=0, epoch=0), sizes
        ),
        "training, 16 at random": padded_mpx(global_batches(alike, GLOBAL_BATCH, seed=0, epoch=0), sizes),
        "training, 16 by orientation (ours)": padded_mpx(global_batches(groups, GLOBAL_BATCH, seed=0, epoch=0), sizes),
        "evaluation, 8 in file order": padded_mpx(evaluation_batches(in_order), sizes),
        "evaluation, 8 by aspect ratio (ours)": padded_mpx(
            evaluation_batches(sorted(in_order, key=lambda index: aspect_ratio(sizes[index]))), sizes
        ),
    }


if __name__ == "__main__":
    figures = compare()
    peers = next(iter(figures.values()))
    print(f"{'batches':45s}  Mpx per image  beside the peers")
    for name, mpx in figures.items():
        print(f"{name:45s}  {mpx:13.3f}  {mpx / peers:.2f}")
