"""Stage anchor_stats: the anchors that train uses, and how well they cover the truths at training scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.anchor_stats.advice import advise
from pipeline.anchor_stats.coverage import cover
from pipeline.anchor_stats.figures import coverage_report, tables
from pipeline.anchor_stats.fitting import Quality, as_options, as_settings, fit_anchors
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.in_force import anchors_in_force, boxes_of
from pipeline.anchor_stats.plots import plot_anchors
from pipeline.anchor_stats.scale import at_training_scale
from pipeline.anchor_stats.sizing import WANTED_PX, propose_size
from pipeline.params import Params
from pipeline.storage.outs import read_json, write_atomic, write_json
from retinanet.data.records import Records

ANCHORS = Path("anchors.json")
REPORT = Path("reports/anchor_stats.json")
PLOT = Path("plots/anchors.png")
TRAIN = Path("data/prepared/train.json")


def run(params: Params) -> None:
    """Write the anchors and what they cover.

    Raises:
        ValueError: in mode fitted, when the split has no boxes.
    """
    content = read_json(TRAIN)
    with one_thread():
        scaled = list(at_training_scale(Records(content), params.transforms))
        anchors = anchors_in_force(params, scaled)
        coverage = cover(scaled, anchor_grid(anchors), params.matcher)
        report = coverage_report(coverage, [category["name"] for category in content["categories"]])
    write_json(ANCHORS, coverage.grid.to_dict())
    write_json(REPORT, report)
    write_atomic(PLOT, lambda path: plot_anchors(coverage, path))
    print(tables(report))
    if params.anchors.mode == "fitted":
        print(f"fitted anchors: {as_settings(anchors)}")
    for sentence in advise(coverage, mode=params.anchors.mode):
        print(f"advice: {sentence}")


def suggest(params: Params) -> None:
    """Print a size and anchors that fit the training split better, as a command; writes nothing.

    Raises:
        ValueError: when the split has no boxes.
    """
    sizing = propose_size(Records(read_json(TRAIN)), params.transforms)
    settings: list[str] = []
    if sizing is not None:
        print(
            f"small objects have sides of {sizing.side_before:.0f} px at transforms.short_side "
            f"{params.transforms.short_side}; {WANTED_PX:.0f} px are found well, so the images come larger"
        )
        size = {"short_side": sizing.short_side, "long_side": sizing.long_side}
        params = params.model_copy(update={"transforms": params.transforms.model_copy(update=size)})
        settings = [f"-S transforms.{key}={value}" for key, value in size.items()]
    with one_thread():
        boxes = boxes_of(params, list(at_training_scale(Records(read_json(TRAIN)), params.transforms)))
        ratios, count = len(params.anchors.aspect_ratios), len(boxes.boxes)
        print(f"fitting {ratios} aspect ratios and the sizes to {count} boxes", flush=True)
        given, fitted = params.anchors.model_copy(update={"mode": "fixed"}), fit_anchors(boxes, params.anchors)
        before, after = boxes.quality(given), boxes.quality(fitted)
    if fitted == given:
        print(f"no better anchors found: {words(before)}")
    else:
        print(f"{words(after)}, instead of {words(before)}, with:")
        settings.append(as_options(fitted))
    if settings:
        print(f"dvc exp run {' '.join(settings)}")


def words(quality: Quality) -> str:
    """A quality as text."""
    return f"mean best IoU {quality.mean_iou:.3f} and recall {quality.recall:.3f}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: the tensors are small, and threads that wait for each other on busy cores take longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
