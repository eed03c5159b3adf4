"""Causes in the data: labels, classes, and boxes that no anchor covers."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.anchor_stats.advice import advise
from pipeline.diagnose.evidence import Cause, Evidence

UNCOVERED = 0.3  # share of the boxes without a fair anchor from which it is a cause


def no_labels(evidence: Evidence) -> Iterator[Cause]:
    """Train has no boxes, or none of the classes that are evaluated."""
    train, test = evidence.splits.get("train"), evidence.splits.get(evidence.test)
    if train is None:
        return
    if sum(train.boxes.values()) == 0:
        yield Cause(
            "no labels",
            1.0,
            f"Train has {train.images} images and no box.",
            "Open reports/prepare.html, which lists what was dropped and why, and check data.train.annotations and "
            "data.classes.",
        )
        return
    if test is None:
        return
    total = sum(test.boxes.values())
    unseen = [name for name, count in test.boxes.items() if count and train.boxes.get(name, 0) == 0]
    if total == 0:
        yield Cause(
            "nothing to find",
            1.0,
            f"The evaluated split {evidence.test} has no box, so AP is undefined.",
            f"Check data.{evidence.test}.annotations, or evaluate on another split (evaluate.split).",
        )
    elif unseen:
        share = sum(test.boxes[name] for name in unseen) / total
        yield Cause(
            "classes not trained",
            0.4 + 0.59 * share,
            f"{100 * share:.0f} % of the boxes of {evidence.test} are of classes without a box in train: "
            f"{', '.join(unseen[:5])}.",
            "Check the class names of both splits, and data.classes; or cut the splits anew (data.split).",
        )


def other_classes(evidence: Evidence) -> Iterator[Cause]:
    """The model's labels mean other classes than the split's."""
    trained, test = evidence.trained, evidence.splits.get(evidence.test)
    if trained is None or test is None or trained.class_names == list(test.boxes):
        return
    same = sorted(trained.class_names) == sorted(test.boxes)
    what = "the same classes in another order" if same else f"{len(trained.class_names)} classes"
    yield Cause(
        "other classes",
        0.99,
        f"The model knows {what}: {', '.join(trained.class_names[:4])}; the split has "
        f"{', '.join(list(test.boxes)[:4])}.",
        "Set data.classes to the model's classes, in their order, or train again.",
        {"data.classes": trained.class_names},
    )


def uncovered_boxes(evidence: Evidence) -> Iterator[Cause]:
    """After resizing, boxes have no anchor or a poor one."""
    coverage = evidence.coverage
    if coverage is None or len(coverage.boxes) == 0:
        return
    poor = (coverage.best_iou < evidence.params.matcher.background_iou) | (coverage.owned == 0)
    share = float(poor.float().mean())
    if share < UNCOVERED:
        return
    side = float((coverage.boxes[:, 2:] - coverage.boxes[:, :2]).prod(dim=1).sqrt().median())
    sizes = [size for level in coverage.grid.sizes for size in level]
    words = next(iter(advise(coverage, mode=evidence.params.anchors.mode)), "")
    fitted = {"anchors.mode": "fitted"} if evidence.params.anchors.mode == "fixed" else {"matcher.low_quality": "truth"}
    yield Cause(
        "boxes without anchors",
        0.5 + 0.45 * share,
        f"{100 * share:.0f} % of the boxes of train have no foreground anchor, or only one of an IoU below "
        f"{evidence.params.matcher.background_iou:g}: after resizing their median side is {side:.0f} px, and anchors "
        f"have {min(sizes):.0f} to {max(sizes):.0f} px.",
        f"Fit the anchors to the boxes (anchors.mode), or change transforms.short_side and long_side. {words}".rstrip(),
        fitted,
    )
