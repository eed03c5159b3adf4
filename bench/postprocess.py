"""From the heads' maps to detections: ours beside torchvision's, on the same maps.

A peer's part begins where ours does, with what the convolutions give: torchvision permutes and joins it first.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor
from torch.utils import benchmark
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

from bench.ratios import Case, run_bench
from retinanet.anchors.grid import build_grid
from retinanet.inference.postprocess import Detections, Postprocess
from retinanet.network.predictions import Predictions, permute_to_N_A_K

SIZE = (800, 1216)  # px
NUM_CLASSES = 80
# Means of the logits, which have deviation 1, for a share of 14.6 million that is above the threshold of .05.
CANDIDATES = {"no": -30.0, "1,000": -6.755, "50,000": -5.651}
BATCH = 16


def build_predictions(mean: float, *, batch_size: int = 1, size: tuple[int, int] = SIZE) -> Predictions:
    """Maps of random logits and small box codes."""
    grid, generator = build_grid(), torch.Generator().manual_seed(0)
    maps: list[list[Tensor]] = []
    for channels, shift, spread in ((NUM_CLASSES, mean, 1.0), (4, 0.0, 0.3)):
        shapes = [(batch_size, channels * grid.anchors_per_cell, *cells) for cells in grid.map_sizes(size)]
        maps.append([torch.randn(shape, generator=generator).mul_(spread).add_(shift) for shape in shapes])
    return Predictions(*maps)


def detect_ours(postprocess: Postprocess, predictions: Predictions, size: tuple[int, int]) -> list[Detections]:
    """With torchvision's settings."""
    sizes = torch.tensor([size] * len(predictions.class_logits[0]))
    return postprocess(predictions, sizes, size)


def detect_torchvision(model: RetinaNet, predictions: Predictions, size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """What its heads and its forward do after the last convolution."""
    grid = build_grid()
    counts, num_images = grid.anchors_per_level(size), len(predictions.class_logits[0])
    joined = {
        "cls_logits": permute_to_N_A_K(predictions.class_logits, NUM_CLASSES),
        "bbox_regression": permute_to_N_A_K(predictions.box_deltas, 4),
    }
    split = {name: list(values.split(counts, dim=1)) for name, values in joined.items()}
    anchors = [list(grid.anchors(size).split(counts))] * num_images
    with torch.no_grad():
        found: list[dict[str, Tensor]] = model.postprocess_detections(split, anchors, [size] * num_images)
    return found


def check_equal(ours: list[Detections], theirs: list[dict[str, Tensor]]) -> None:
    """The same detections, or this bench says nothing."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.boxes, other["boxes"], rtol=0, atol=1e-2)
        torch.testing.assert_close(one.scores, other["scores"])
        assert torch.equal(one.labels, other["labels"])


def cases() -> Iterable[Case]:
    """One image with few and with many candidates, and a batch."""
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, detections_per_img=100)
    postprocess = Postprocess(build_grid(), NUM_CLASSES, min_size=None)
    sizes = [(count, 1) for count in CANDIDATES] + [("1,000", BATCH)]
    for count, batch_size in sizes:
        predictions = build_predictions(CANDIDATES[count], batch_size=batch_size)
        ours = partial(detect_ours, postprocess, predictions, SIZE)
        peer = partial(detect_torchvision, model, predictions, SIZE)
        check_equal(ours(), peer())
        yield Case(f"{batch_size} x 800 x 1216, {count} candidates an image", ours, {"torchvision": peer})


def growth() -> dict[str, list[tuple[float, float]]]:
    """(work, milliseconds) of ours as the image grows (megapixels) and as the candidates of an image do (thousands)."""
    postprocess = Postprocess(build_grid(), NUM_CLASSES, min_size=None)
    sides = [256, 512, 768, 1024, 1536]
    by_size = [((side, side), CANDIDATES["1,000"]) for side in sides]
    by_count = [(SIZE, mean) for mean in (-8.0, -6.755, -6.2, -5.651, -5.0)]
    pairs: dict[str, list[tuple[float, float]]] = {"megapixels": [], "thousand candidates": []}
    for size, mean in by_size + by_count:
        predictions = build_predictions(mean, size=size)
        run = partial(detect_ours, postprocess, predictions, size)
        cost = 1e3 * benchmark.Timer("run()", globals={"run": run}).blocked_autorange().median
        above = sum(int((level > -2.9444).sum()) for level in predictions.class_logits)
        grows, work = ("megapixels", size[0] * size[1] / 1e6)
        if size == SIZE:
            grows, work = ("thousand candidates", above / 1e3)
        pairs[grows].append((work, cost))
    return pairs


if __name__ == "__main__":
    run_bench("Post-processing beside torchvision", cases)
