"""Stage anchor_stats: the anchors that train uses, and how well they cover the truths at training scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.anchor_stats.advice import advise
from pipeline.anchor_stats.fitting import as_command, fit_anchors, mean_best_iou
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.params import Params
from pipeline.params.detector import Matcher
from pipeline.params.experiment import Transforms as Section
from pipeline.storage.outs import read_json, write_json
from retinanet.anchors.grid import Grid
from retinanet.anchors.matcher import match_anchors
from retinanet.data.records import Record, Records
from retinanet.data.transforms import Transforms

ANCHORS = Path("anchors.json")
REPORT = Path("reports/anchor_stats.json")
TRAIN = Path("data/prepared/train.json")
# COCO's areas, in px of the training scale: what the network sees, not what the file says.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}


def run(params: Params) -> None:
    """Write the anchors and what they cover."""
    content = read_json(TRAIN)
    grid = anchor_grid(params.anchors)
    coverage, scaled = AnchorCoverage(content["categories"]), [torch.zeros(0, 4)]
    records = tqdm(Records(content), disable=None, unit="image", desc="anchor_stats")
    for record, boxes, image_size in at_training_scale(records, params.transforms):
        coverage.add(record, *cover(boxes, grid, image_size, params.matcher))
        scaled.append(boxes)
    report = coverage.report(params.matcher.foreground_iou, params.matcher.background_iou)
    write_json(ANCHORS, grid.to_dict())
    write_json(REPORT, report)
    print(summary(report))
    best_iou, owned = torch.cat(coverage.best_iou), torch.cat(coverage.owned)
    for sentence in advise(torch.cat(scaled), best_iou, owned, grid, params.matcher):
        print(f"advice: {sentence}")


def suggest(params: Params) -> None:
    """Print anchors that fit the training split better, as a command; writes nothing.

    Raises:
        ValueError: when the split has no boxes.
    """
    scaled = list(at_training_scale(Records(read_json(TRAIN)), params.transforms))
    boxes = torch.cat([torch.zeros(0, 4), *(boxes for _, boxes, _ in scaled)])
    if len(boxes) == 0:
        raise ValueError(f"{TRAIN} has no boxes, so there is nothing that anchors could fit")
    height, width = (max(side) for side in zip(*(size for _, _, size in scaled), strict=True))
    print(f"fitting {len(params.anchors.aspect_ratios)} aspect ratios and the sizes to {len(boxes)} boxes", flush=True)
    fitted = fit_anchors(boxes, (height, width), params.anchors, seed=params.seed)
    before, after = (mean_best_iou(boxes, (height, width), anchors) for anchors in (params.anchors, fitted))
    if fitted == params.anchors:
        print(f"no better anchors found: the mean best IoU is {before:.3f}")
        return
    print(f"mean best IoU {after:.3f} instead of {before:.3f} with:\n{as_command(fitted)}")


def at_training_scale(records: Iterable[Record], section: Section) -> Iterator[tuple[Record, Tensor, tuple[int, int]]]:
    """Every image with its truths resized as for evaluation, and its padded size: (record, [M, 4] px, (H, W))."""
    transforms = Transforms(
        short_side=section.short_side, long_side=section.long_side, size_divisor=section.size_divisor
    )
    for record in records:
        height, width = transforms.resized_size(record.size, transforms.for_evaluation)
        factor_y, factor_x = height / record.size[0], width / record.size[1]
        boxes = record.boxes * torch.tensor([factor_x, factor_y, factor_x, factor_y])
        yield record, boxes, transforms.padded_size_of([(height, width)])


def cover(boxes: Tensor, grid: Grid, image_size: tuple[int, int], matcher: Matcher) -> tuple[Tensor, Tensor, Tensor]:
    """How the anchors of an image of that size cover its truths.

    Returns:
        [M] best IoU with any anchor, [M] number of foreground anchors, [M] area in px.
    """
    matches = match_anchors(
        [boxes],
        grid,
        image_size,
        foreground_iou=matcher.foreground_iou,
        background_iou=matcher.background_iou,
        low_quality=matcher.low_quality,
    )
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return matches.best_iou, torch.bincount(matches.truth, minlength=boxes.shape[0]), areas


class AnchorCoverage:
    """Coverage of all ground-truth boxes by anchors, one row each."""

    def __init__(self, categories: Sequence[dict[str, Any]]) -> None:
        self.class_names = [category["name"] for category in categories]
        # The first rows are those of no truth: a split may have none.
        self.best_iou = [torch.zeros(0)]
        self.owned = [torch.zeros(0, dtype=torch.int64)]
        self.areas = [torch.zeros(0)]
        self.labels = [torch.zeros(0, dtype=torch.int64)]

    def add(self, record: Record, best_iou: Tensor, owned: Tensor, areas: Tensor) -> None:
        """The truths of one image."""
        self.best_iou.append(best_iou)
        self.owned.append(owned)
        self.areas.append(areas)
        self.labels.append(record.labels)

    def report(self, foreground_iou: float, background_iou: float) -> dict[str, Any]:
        """Figures over all truths, by size and by class."""
        best_iou, owned, areas, labels = (
            torch.cat(rows) for rows in (self.best_iou, self.owned, self.areas, self.labels)
        )
        thresholds = {"foreground": foreground_iou, "background": background_iou}
        sizes = {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
        classes = {name: labels == label for label, name in enumerate(self.class_names)}
        return {
            "thresholds": thresholds,
            "all": figures(best_iou, owned, thresholds),
            "by_size": {name: figures(best_iou[rows], owned[rows], thresholds) for name, rows in sizes.items()},
            "by_class": {name: figures(best_iou[rows], owned[rows], thresholds) for name, rows in classes.items()},
        }


def figures(best_iou: Tensor, owned: Tensor, thresholds: dict[str, float]) -> dict[str, Any]:
    """Figures of some truths: recall at the matcher's thresholds, best IoU, foreground anchors per truth."""
    if best_iou.numel() == 0:
        return {"truths": 0}
    quantiles = torch.quantile(best_iou, torch.tensor([0.0, 0.1, 0.5, 0.9]))
    return {
        "truths": best_iou.numel(),
        "recall_foreground": rounded((best_iou >= thresholds["foreground"]).float().mean()),
        "recall_background": rounded((best_iou >= thresholds["background"]).float().mean()),
        "best_iou_mean": rounded(best_iou.mean()),
        **{f"best_iou_{name}": rounded(q) for name, q in zip(("min", "p10", "median", "p90"), quantiles, strict=True)},
        "foreground_anchors_mean": rounded(owned.float().mean()),
        "without_foreground": int((owned == 0).sum()),
    }


def rounded(value: Tensor) -> float:
    """Five digits are more than the figures mean, and the same on every machine."""
    return round(float(value), 5)


def summary(report: dict[str, Any]) -> str:
    """The figures as a table for the screen."""
    lines = [f"{'boxes':>24} {'recall':>8} {'best IoU':>9} {'anchors/box':>13} {'no anchor':>10}"]
    rows = {"all": report["all"], **report["by_size"], **report["by_class"]}
    for name, row in rows.items():
        if row["truths"] == 0:
            lines.append(f"{name:<16}{0:>8}")
            continue
        lines.append(
            f"{name:<16}{row['truths']:>8} {row['recall_foreground']:>8.3f} {row['best_iou_mean']:>9.3f}"
            f" {row['foreground_anchors_mean']:>13.1f} {row['without_foreground']:>10}"
        )
    return "\n".join(lines)
