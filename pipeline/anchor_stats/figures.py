"""Figures of a coverage: the report, and its tables for the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.anchor_stats.coverage import Coverage

# COCO's areas, in px of the training scale: what the network sees, not what the file says.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
RECALLS = (0.4, 0.5, 0.6, 0.7)
QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9}
LEVELS = ("P3", "P4", "P5", "P6", "P7")


def coverage_report(coverage: Coverage, class_names: Sequence[str]) -> dict[str, Any]:
    """Figures of images and levels, and of all truths, by size and by class."""
    matcher, every = coverage.matcher, torch.ones_like(coverage.labels, dtype=torch.bool)
    classes = {name: coverage.labels == label for label, name in enumerate(class_names)}
    return {
        "thresholds": {"foreground": matcher.foreground_iou, "background": matcher.background_iou},
        "images": images(coverage),
        "levels": levels(coverage),
        "all": figures(coverage, every),
        "by_size": {name: figures(coverage, rows) for name, rows in by_size(coverage).items()},
        "by_class": {name: figures(coverage, rows) for name, rows in classes.items()},
    }


def by_size(coverage: Coverage) -> dict[str, Tensor]:
    """The truths of each of SIZES: [M] bool."""
    areas = (coverage.boxes[:, 2:] - coverage.boxes[:, :2]).prod(dim=1)
    return {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}


def images(coverage: Coverage) -> dict[str, int]:
    """Numbers of images; one without boxes counts as `without_boxes` only."""
    with_boxes = len(coverage.image.unique())
    return {
        "all": coverage.num_images,
        "without_boxes": coverage.num_images - with_boxes,
        "without_foreground": with_boxes - coverage.images_of(coverage.owned > 0),
    }


def levels(coverage: Coverage) -> dict[str, dict[str, float]]:
    """Numbers and shares of foreground, ignored and background anchors of each level, over all images."""
    foreground, ignored = coverage.assigned.sum(dim=0), coverage.ignored
    kinds = {
        "foreground": foreground,
        "ignored": ignored,
        "background": coverage.anchors - foreground - ignored,
    }
    shares = {f"{kind}_share": row / coverage.anchors.clamp(min=1) for kind, row in kinds.items()}
    return {
        name: {kind: int(row[level]) for kind, row in kinds.items()}
        | {kind: round(float(row[level]), 8) for kind, row in shares.items()}
        for level, name in enumerate(LEVELS)
    }


def figures(coverage: Coverage, rows: Tensor) -> dict[str, Any]:
    """Figures of some truths ([M] bool): best IoU, recalls, foreground anchors, truths and images without any."""
    best_iou, owned, matcher = coverage.best_iou[rows], coverage.owned[rows], coverage.matcher
    if best_iou.numel() == 0:
        return {"truths": 0}
    recalls = {"foreground": matcher.foreground_iou, "background": matcher.background_iou}
    recalls |= {f"{100 * iou:.0f}": iou for iou in RECALLS}
    with_truths = coverage.images_of(rows)
    return {
        "truths": best_iou.numel(),
        "images": with_truths,
        **{f"recall_{name}": rounded((best_iou >= iou).float().mean()) for name, iou in recalls.items()},
        "best_iou_mean": rounded(best_iou.mean()),
        "best_iou_min": rounded(best_iou.min()),
        **quantiles("best_iou", best_iou),
        "foreground_anchors_mean": rounded(owned.float().mean()),
        **quantiles("foreground_anchors", owned.float()),
        "foreground_per_level": dict(zip(LEVELS, coverage.assigned[rows].sum(dim=0).tolist(), strict=True)),
        "without_foreground": int((owned == 0).sum()),
        "without_foreground_by_low_quality": {
            name: int((assigned[rows].sum(dim=1) == 0).sum()) for name, assigned in coverage.foreground.items()
        },
        "images_without_foreground": with_truths - coverage.images_of(rows & (coverage.owned > 0)),
    }


def quantiles(name: str, values: Tensor) -> dict[str, float]:
    """Quantiles of [M] values, by name."""
    found = torch.quantile(values, torch.tensor(list(QUANTILES.values())))
    return {f"{name}_{key}": rounded(value) for key, value in zip(QUANTILES, found, strict=True)}


def rounded(value: Tensor) -> float:
    """Five digits are more than the figures mean, and the same on every machine."""
    return round(float(value), 5)


def tables(report: dict[str, Any]) -> str:
    """The figures as tables for the screen: truths, levels, and one line on images."""
    return "\n".join([*truth_lines(report), *level_lines(report), *closing_lines(report)])


def truth_lines(report: dict[str, Any]) -> Iterator[str]:
    """One line for all truths, each size and each class."""
    yield f"{'boxes':>24} {'recall':>8} {'best IoU':>9} {'anchors/box':>13} {'no anchor':>10}"
    for name, row in {"all": report["all"], **report["by_size"], **report["by_class"]}.items():
        if row["truths"] == 0:
            yield f"{name:<16}{0:>8}"
            continue
        yield (
            f"{name:<16}{row['truths']:>8} {row['recall_foreground']:>8.3f} {row['best_iou_mean']:>9.3f}"
            f" {row['foreground_anchors_mean']:>13.1f} {row['without_foreground']:>10}"
        )


def level_lines(report: dict[str, Any]) -> Iterator[str]:
    """One line for each level."""
    yield f"{'foreground':>24} {'share':>8} {'ignored':>9} {'share':>13} {'background':>12}"
    for name, row in report["levels"].items():
        yield (
            f"{name:<12}{row['foreground']:>12} {row['foreground_share']:>8.3%} {row['ignored']:>9}"
            f" {row['ignored_share']:>13.3%} {row['background']:>12}"
        )


def closing_lines(report: dict[str, Any]) -> Iterator[str]:
    """Images, and the truths that each setting of low_quality leaves without an anchor."""
    images = report["images"]
    yield (
        f"{images['all']} images: {images['without_boxes']} have no boxes, "
        f"{images['without_foreground']} have boxes but no foreground anchor"
    )
    if report["all"]["truths"]:
        counts = report["all"]["without_foreground_by_low_quality"].items()
        yield "boxes without a foreground anchor by matcher.low_quality: " + ", ".join(f"{k} {n}" for k, n in counts)
