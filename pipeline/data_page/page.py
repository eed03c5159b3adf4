"""The page reports/prepare.html: one file that opens offline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.data_page.thumbnails import Thumbnail, draw_thumbnail
from pipeline.formats.records import Box, CocoSplit
from pipeline.formats.report import group_findings
from pipeline.formats.root import Root
from pipeline.pages.rendering import png_uri, render_page

CLASSES_SHOWN = 40
PICTURES_PER_CLASS = 4
REASONS_SHOWN = 30


class ClassRow(NamedTuple):
    """A class: its boxes in each split, and sample pictures of train."""

    name: str
    counts: list[int]
    pictures: list[Thumbnail]


class Reason(NamedTuple):
    """All findings of one reason, with the first as the example."""

    kind: str
    reason: str
    occurrences: int
    example: Mapping[str, str]
    picture: Thumbnail | None


def build_page(splits: Mapping[str, CocoSplit], report: Mapping[str, Any], *, title: str, figure: bytes) -> str:
    """Return the HTML of a data set.

    Args:
        splits: prepared, of the same categories.
        report: the content of reports/prepare.json.
        figure: of draw_overview, as PNG.
    """
    return render_page(
        "pipeline.data_page",
        "page.html",
        title=title,
        splits=report["splits"],
        notes=report["notes"],
        leaks=report["leaks"],
        figure=png_uri(figure),
        classes=_sample_classes(splits),
        num_classes=len(next(iter(splits.values()))["categories"]),
        reasons=_group_findings(report, splits),
    )


def _sample_classes(splits: Mapping[str, CocoSplit]) -> list[ClassRow]:
    """The classes with most boxes in train, each with pictures spread evenly over its images."""
    train = splits["train"]
    boxes_of: dict[int, list[tuple[int, Box]]] = {image["id"]: [] for image in train["images"]}
    images_of: dict[int, dict[int, None]] = {category["id"]: {} for category in train["categories"]}
    for box in train["annotations"]:
        x, y, w, h = box["bbox"]
        boxes_of[box["image_id"]].append((box["category_id"], (x, y, w, h)))
        images_of[box["category_id"]][box["image_id"]] = None
    paths = {image["id"]: image["file_name"] for image in train["images"]}
    counts = {name: _count_boxes(split) for name, split in splits.items()}
    ranked = sorted(train["categories"], key=lambda category: -counts["train"].get(category["id"], 0))
    root, rows = Root(train["info"]["root"]), []
    for category in ranked[:CLASSES_SHOWN]:
        own, pictures = category["id"], []
        for image in _spread(list(images_of[own]), PICTURES_PER_CLASS):
            chosen = [box for label, box in boxes_of[image] if label == own]
            others = [box for label, box in boxes_of[image] if label != own]
            pictures.append(draw_thumbnail(root, paths[image], chosen, others))
        found = [picture for picture in pictures if picture is not None]
        rows.append(ClassRow(category["name"], [counts[name].get(own, 0) for name in splits], found))
    return rows


def _count_boxes(split: CocoSplit) -> dict[int, int]:
    ids, counts = np.unique([box["category_id"] for box in split["annotations"]], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in places]


def _group_findings(report: Mapping[str, Any], splits: Mapping[str, CocoSplit]) -> list[Reason]:
    """Up to REASONS_SHOWN reasons, each with its first picture."""
    root = Root(splits["train"]["info"]["root"])
    return [
        Reason(
            group.kind,
            group.reason,
            len(group.findings),
            group.findings[0],
            draw_thumbnail(root, group.findings[0]["image"], _box_of(group.findings[0])),
        )
        for group in group_findings(report)[:REASONS_SHOWN]
    ]


def _box_of(finding: Mapping[str, str]) -> list[Box]:
    """The box of a finding, from its text "[x, y, w, h]"; none if it has no finite one."""
    sides = [float(side) for side in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", finding["box"])]
    return [(sides[0], sides[1], max(0.0, sides[2]), max(0.0, sides[3]))] if len(sides) == 4 else []
