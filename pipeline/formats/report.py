"""The report of `prepare`: reports/prepare.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.formats.leaks import describe_leaks, find_leaks
from pipeline.formats.records import Finding, Split, printable
from pipeline.params.data import GroupBy

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
KINDS = ("dropped", "resized", "clipped", "noticed")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Maximum number of classes in a note; boxes_per_class has all.
NAMED = 8


def summarise(
    splits: Mapping[str, Split],
    notes: Sequence[str] = (),
    *,
    group: GroupBy = None,
    duplicates: float | None = None,
) -> dict[str, Any]:
    """Return the report: counts per split, leaks, then every dropped or changed record, by file and reason.

    Args:
        group, duplicates: see `find_leaks`.
    """
    return {
        "splits": {name: _summarise_split(split) for name, split in splits.items()},
        "notes": [*notes, *_classes_without_boxes(splits)],
        "leaks": find_leaks(splits, group=group, duplicates=duplicates),
        "dropped": _sorted([finding for split in splits.values() for finding in split.dropped]),
        "clipped": _sorted([finding for split in splits.values() for finding in split.clipped]),
        "resized": _sorted([finding for split in splits.values() for finding in split.resized]),
        "noticed": _sorted([finding for split in splits.values() for finding in split.noticed]),
    }


def _summarise_split(split: Split) -> dict[str, Any]:
    images, annotations = split.coco["images"], split.coco["annotations"]
    num_not_chosen = sum(split.not_chosen.values())
    objects = [box for box in annotations if not box["iscrowd"]]
    sides = np.array([box["bbox"][2:] for box in objects], dtype=np.float64).reshape(-1, 2)  # [M, 2] w, h
    return {
        "images": len(images),
        "images_dropped": split.num_images - len(images),
        "images_without_boxes": len({image["id"] for image in images} - {box["image_id"] for box in objects}),
        "images_resized": len(split.resized),
        "images_grey": split.num_grey,
        "images_turned": split.num_turned,
        "boxes": len(annotations),
        "boxes_dropped": split.num_boxes - len(annotations) - num_not_chosen,
        "boxes_clipped": len(split.clipped),
        "boxes_crowd": sum(box["iscrowd"] for box in annotations),
        "boxes_per_class": _boxes_per_class(split),
        "boxes_of_classes_not_chosen": dict(sorted(split.not_chosen.items())),
        "width_px": _quantiles(sides[:, 0]),
        "height_px": _quantiles(sides[:, 1]),
    }


def _boxes_per_class(split: Split) -> dict[str, int]:
    counts = Counter(box["category_id"] for box in split.coco["annotations"] if not box["iscrowd"])
    return {category["name"]: counts[category["id"]] for category in split.coco["categories"]}


def _quantiles(sides: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Return named quantiles of box sides [M] in px; empty without boxes."""
    if not sides.size:
        return {}
    return {name: round(float(np.quantile(sides, share)), 2) for name, share in QUANTILES.items()}


def _classes_without_boxes(splits: Mapping[str, Split]) -> list[str]:
    notes = []
    for name, split in splits.items():
        absent = [category for category, count in _boxes_per_class(split).items() if count == 0]
        if absent:
            more = f" and {len(absent) - NAMED} more classes" if len(absent) > NAMED else ""
            notes.append(f"{name} has no box of {', '.join(absent[:NAMED])}{more}")
    return notes


def _sorted(findings: list[Finding]) -> list[dict[str, str]]:
    """Group by file, then reason; records keep their order within a group."""
    return [finding._asdict() for finding in sorted(findings, key=lambda finding: (finding.file, finding.reason))]


def format_report(report: Mapping[str, Any], *, shown: int, path: str) -> str:
    """Format tables of splits and classes, the notes, leaks, and the first finding of each reason.

    Args:
        shown: number of classes and of reasons, at most; `path` holds all.
    """
    columns = ("images", "images_without_boxes", "images_dropped", "boxes", "boxes_dropped", "boxes_clipped")
    titles = ("images", "without boxes", "dropped", "boxes", "dropped", "clipped")
    lines = ["".join([f"{'split':8}", *(f"{title:>15}" for title in titles)])]
    for name, numbers in report["splits"].items():
        lines.append("".join([f"{name:8}", *(f"{numbers[column]:>15}" for column in columns)]))
    lines += _boxes_of_classes(report["splits"], shown=shown, path=path)
    lines += report["notes"]
    lines += describe_leaks(report["leaks"])
    groups = group_findings(report)
    lines += [f"{group.kind}: {_line(group.findings[0])}{_more(len(group.findings) - 1)}" for group in groups[:shown]]
    is_cut = len(groups) > shown or any(len(group.findings) > 1 for group in groups)
    return printable("\n".join([*lines, f"all findings, one by one: {path}"] if is_cut else lines))


class Group(NamedTuple):
    """Findings of one kind and reason.

    Attributes:
        kind: dropped, clipped, resized or noticed.
        reason: without its numbers.
    """

    kind: str
    reason: str
    findings: list[Mapping[str, str]]


def group_findings(report: Mapping[str, Any]) -> list[Group]:
    """Group dropped and changed records by reason; those that lost something first, then the most frequent."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for kind in KINDS:
        for finding in report[kind]:
            groups.setdefault((kind, NUMBER.sub("N", finding["reason"])), []).append(finding)
    found = [Group(kind, reason, findings) for (kind, reason), findings in groups.items()]
    return sorted(found, key=lambda group: (KINDS.index(group.kind), -len(group.findings)))


def _more(count: int) -> str:
    return f", and {count} more" if count else ""


def _boxes_of_classes(splits: Mapping[str, Any], *, shown: int, path: str) -> list[str]:
    """Return a table of the boxes of each class in each split."""
    counts = {name: numbers["boxes_per_class"] for name, numbers in splits.items()}
    classes = list(dict.fromkeys(name for found in counts.values() for name in found))
    width = max(len(name) for name in ("boxes of", *classes[:shown])) + 1
    lines = ["".join([f"{'boxes of':{width}}", *(f"{name:>10}" for name in counts)])]
    for name in classes[:shown]:
        lines.append("".join([f"{name:{width}}", *(f"{found.get(name, 0):>10}" for found in counts.values())]))
    hidden = len(classes) - shown
    return [*lines, f"... and {hidden} more classes in {path}"] if hidden > 0 else lines


def _line(finding: Mapping[str, str]) -> str:
    details = [finding[key] for key in ("image", "record", "category", "box") if finding[key]]
    return f"{' '.join(details)}: {finding['reason']} ({finding['file']})"
