"""Fitted anchors beside those of the peers' searches, with as many anchors per cell; and the time of the stage.

    python -m bench.anchors [PROJECT...]

PROJECT holds params.yaml and data/prepared/train.json. Every contender is judged by the mean IoU of a box, at training
scale, with the best anchor of the real grid, and by the recall at the matcher's foreground_iou. Peers: k-means with the
distance 1 - IoU (Redmon and Farhadi 2017), and its result evolved by mutation with the fitness of Ultralytics'
AutoAnchor. Both find C shapes per level on five levels, by area from P3 to P7; the paper's is one base scale and three
ratios. The stage is timed on as many images and boxes as COCO has, drawn with about its sizes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bench.ratios import header, table
from pipeline.anchor_stats.fitting import Boxes, Quality, fit_anchors
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.in_force import boxes_of
from pipeline.anchor_stats.run import TRAIN, run
from pipeline.anchor_stats.scale import at_training_scale
from pipeline.params import load_params
from pipeline.params.detector import Anchors
from retinanet.data.records import Records

Sides = npt.NDArray[np.float64]
"""[N, 2] width and height, px."""
GENERATIONS, MUTATION_RATE, SIGMA = 1000, 0.9, 0.1  # Ultralytics' values
THRESHOLD = 4.0
IMAGES, BOXES = 118_000, 860_000  # of COCO's training split
SIZES = [(480, 640), (427, 640), (640, 480), (640, 427), (375, 500), (426, 640), (640, 640), (500, 375)]
FREQUENCIES = [0.3, 0.25, 0.13, 0.1, 0.08, 0.06, 0.05, 0.03]


def main() -> None:
    """One row per project, then one per mode of the stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=Path, nargs="*")
    projects = parser.parse_args().projects
    print(header())
    rows = [[project.name, *(f"{mean:.3f}, {recall:.3f}" for mean, recall in compare(project))] for project in projects]
    if rows:
        columns = ["mean IoU, recall", "paper", "params.yaml", "k-means", "k-means, evolved", "fitted (ours)"]
        print("", table(columns, rows), sep="\n")
    print("", table([f"stage on {IMAGES} images, {BOXES} boxes, anchors.mode", "s", "CPU s"], time_stage()), sep="\n")


def compare(project: Path) -> Iterator[Quality]:
    """The quality of every contender."""
    params = load_params(project / "params.yaml")
    records = Records(json.loads((project / TRAIN).read_text()))
    boxes = boxes_of(params, list(at_training_scale(records, params.transforms)))
    paper = {"base_scale": 4.0, "scales_per_octave": 3, "sizes": None, "aspect_ratios": [0.5, 1.0, 2.0]}
    anchors = params.anchors.model_copy(update={"mode": "fixed"})
    yield boxes.quality(anchors.model_copy(update=paper))
    yield boxes.quality(anchors)
    sides = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]).double().numpy()
    clusters = k_means(sides, 5 * anchor_grid(anchors).anchors_per_cell)
    yield on_grid(clusters, boxes, anchors)
    yield on_grid(evolve(clusters, sides), boxes, anchors)
    yield boxes.quality(fit_anchors(boxes, anchors))


def time_stage() -> Iterator[list[str]]:
    """Time the whole stage, without imports, on COCO's number of images at COCO's scale, in each anchors.mode."""
    params = load_params(Path(__file__).parents[1] / "presets/coco_r50_1x.yaml")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        TRAIN.parent.mkdir(parents=True)
        TRAIN.write_text(json.dumps(like_coco(IMAGES, BOXES)))
        for mode in ("fixed", "fitted"):
            anchors = params.anchors.model_copy(update={"mode": mode})
            wall, cpu = time.perf_counter(), time.process_time()
            with redirect_stdout(StringIO()):
                run(params.model_copy(update={"anchors": anchors}))
            yield [mode, f"{time.perf_counter() - wall:.1f}", f"{time.process_time() - cpu:.1f}"]


def like_coco(images: int, boxes: int) -> dict[str, object]:
    """A prepared file: images of COCO's usual sizes, some of them crowded; two fifths of the boxes are under 32 px."""
    rng = np.random.default_rng(0)
    sizes = np.array(SIZES)[rng.choice(len(SIZES), images, p=FREQUENCIES)]
    crowding = rng.pareto(1.5, images) + 0.3
    image = np.sort(rng.choice(images, boxes, p=crowding / crowding.sum()))
    side, ratio = np.exp(rng.normal(np.log(43), 1.1, boxes)), np.exp(rng.normal(0, 0.6, boxes))
    height, width = sizes[image].T
    w, h = (side / ratio**0.5).clip(2, width - 1), (side * ratio**0.5).clip(2, height - 1)
    xywh = np.stack([rng.random(boxes) * (width - w), rng.random(boxes) * (height - h), w, h], axis=1)
    return {
        "categories": [{"id": label, "name": str(label)} for label in range(80)],
        "images": [
            {"id": number, "height": height, "width": width, "file_name": f"{number:012}.jpg"}
            for number, (height, width) in enumerate(sizes.tolist())
        ],
        "annotations": [
            {"id": number, "image_id": of, "bbox": box, "category_id": number % 80}
            for number, (of, box) in enumerate(zip(image.tolist(), xywh.tolist(), strict=True), start=1)
        ],
    }


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


def on_grid(shapes: Sides, boxes: Boxes, anchors: Anchors) -> Quality:
    """The quality of these shapes on the grid, by area from the finest level to the coarsest."""
    grid = anchor_grid(anchors).shapes(boxes.image_size)
    ordered = torch.from_numpy(shapes[np.argsort(shapes.prod(axis=1))])
    corners = torch.cat([-ordered, ordered], dim=1) / 2
    return boxes.quality_of(grid._replace(corners=corners))


if __name__ == "__main__":
    main()
