"""The search of post-processing thresholds on candidates for COCO's val, as a trial of a sweep does it.

Beside it the definition: suppression and evaluation for each pair of thresholds. The figures must be equal to the last
bit. Measured are the whole grid of params.yaml, and its first nms_iou under all score thresholds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.evaluation import Detections, build_world
from bench.ratios import Case, run_bench
from pipeline.params import load_params
from pipeline.params.sweep import Thresholds
from pipeline.sweep.thresholds import search_thresholds, suppress
from retinanet.evaluation.coco_eval import evaluate_detections

MOST = 100  # detections of an image that are kept, as of candidates here
NUM_IMAGES = (500, 5000)
ONE_BY_ONE = 500  # images up to which the definition is measured too


def search_one_by_one(
    detections: Detections, truth: Mapping[str, Any], thresholds: Thresholds
) -> list[dict[str, float]]:
    """The definition."""
    rows = []
    for nms_iou, score in itertools.product(thresholds.nms_iou, thresholds.score_threshold):
        kept = {
            image_id: suppress(found, [nms_iou], score_threshold=score, most=MOST)[0]
            for image_id, found in detections.items()
        }
        metrics = evaluate_detections(truth, kept).metrics
        rows.append({"nms_iou": nms_iou, "score_threshold": score} | {n: metrics[n] or 0.0 for n in ("AP", "AP50")})
    return sorted(rows, key=lambda row: -row["AP"])


def cases() -> Iterable[Case]:
    """A small and a large set, under the thresholds of params.yaml and under those of the first nms_iou."""
    sweep = load_params(Path(__file__).parents[1] / "params.yaml").sweep
    assert sweep is not None
    thresholds = sweep.postprocess
    first = thresholds.model_copy(update={"nms_iou": thresholds.nms_iou[:1]})
    for num_images, grid in itertools.product(NUM_IMAGES, (first, thresholds)):
        truth, detections = build_world(num_images)
        ours = partial(search_thresholds, detections.items(), truth, grid, max_detections=MOST)
        peers = {"one evaluation": partial(evaluate_detections, truth, detections)}
        if num_images <= ONE_BY_ONE:
            assert ours() == search_one_by_one(detections, truth, grid)
            peers["each pair by itself"] = partial(search_one_by_one, detections, truth, grid)
        candidates = sum(len(scores) for _, scores, _ in detections.values())
        pairs = f"{len(grid.nms_iou)} x {len(grid.score_threshold)} thresholds"
        yield Case(f"{num_images} images, {candidates} candidates, {pairs}", ours, peers)


if __name__ == "__main__":
    run_bench("The search of thresholds", cases)
