"""Checks of prepared records that are valid but suspicious, and what becomes of all that was found.

Each check has a policy in section `data.checks`: keep, drop (the box), drop_image, or refuse, which ends the stage.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.records import CocoAnnotation, CocoSplit, Finding, Split, Suspicion, box_text
from pipeline.params.data import Checks

# A box that covers this much of its picture is the label of a picture rather than of an object.
WHOLE = 0.99


def apply_checks(split: Split, checks: Checks, *, name: str) -> Split:
    """Return a split without the boxes and images that the policies drop; what is kept or dropped is in its lists."""
    found = [*check_boxes(split.coco, checks), *find_contradictions(split.coco), *split.suspicions]
    paths = {image["id"]: image["file_name"] for image in split.coco["images"]}
    names = {category["id"]: category["name"] for category in split.coco["categories"]}
    rows = [(one, _describe(one, paths, names, split=name)) for one in found]
    boxes = {id(one.annotation) for one, _ in rows if _policy(checks, one.check) == "drop"}
    known = [*split.dropped, *split.clipped, *split.resized, *(row for _, row in rows)]
    images = {row.image for row in known if _policy(checks, row.check) == "drop_image"}
    gone = {number for number, path in paths.items() if path in images}
    annotations = split.coco["annotations"]
    kept = [box for box in annotations if id(box) not in boxes and box["image_id"] not in gone]
    lost = Counter(paths[box["image_id"]] for box in annotations if box["image_id"] in gone)
    return replace(
        split,
        coco={
            **split.coco,
            "images": [image for image in split.coco["images"] if image["id"] not in gone],
            "annotations": kept,
        },
        dropped=[
            *split.dropped,
            *(row for one, row in rows if _policy(checks, one.check) == "drop"),
            *_drop_images(known, images, lost, checks),
        ],
        noticed=[row for one, row in rows if _policy(checks, one.check) in ("keep", "refuse")],
    )


def refuse(splits: Mapping[str, Split], names: Sequence[tuple[str, str]], checks: Checks) -> None:
    """Raise for what the policies refuse.

    Args:
        names: pairs of class names, see name_pairs.

    Raises:
        ValueError: with the count and the first of each check.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for split in splits.values():
        for row in filter(lambda row: row.check, (*split.dropped, *split.clipped, *split.resized, *split.noticed)):
            words = (row.image, row.record, row.category, row.box)
            found[row.check].append(f"{' '.join(word for word in words if word)}: {row.reason}")
    found["names"] += [f"{first!r} and {second!r}" for first, second in names]
    refused = {
        check: rows for check, rows in found.items() if rows and (checks.strict or _policy(checks, check) == "refuse")
    }
    if refused:
        why = "data.checks.strict is true" if checks.strict else "data.checks refuses them"
        lines = "".join(f"\n  {check}: {len(rows)}, the first: {rows[0]}" for check, rows in refused.items())
        raise ValueError(f"the data set has findings, and {why}; correct them, or choose another policy:{lines}")


def check_boxes(split: CocoSplit, checks: Checks) -> Iterator[Suspicion]:
    """Yield boxes that are small, cover their picture, or repeat another one; crowds are left out."""
    areas = {image["id"]: image["width"] * image["height"] for image in split["images"]}
    alike: defaultdict[tuple[int, int], list[CocoAnnotation]] = defaultdict(list)
    for box in split["annotations"]:
        if box["iscrowd"]:
            continue
        _, _, width, height = box["bbox"]
        if min(width, height) < checks.small_px:
            yield Suspicion("small", box["image_id"], box, f"a side under {checks.small_px:g} px")
        if width * height >= WHOLE * areas[box["image_id"]]:
            yield Suspicion("whole_picture", box["image_id"], box, "the box covers the whole picture")
        alike[box["image_id"], box["category_id"]].append(box)
    for boxes in alike.values():
        if len(boxes) > 1:
            yield from find_duplicates(boxes, checks.duplicate_iou)


def find_duplicates(boxes: Sequence[CocoAnnotation], least_iou: float) -> Iterator[Suspicion]:
    """Yield every box of one class and image that repeats an earlier one, which is no duplicate itself."""
    ious = iou_matrix([box["bbox"] for box in boxes])
    if (ious >= least_iou).sum() == len(boxes):
        return
    kept: list[int] = []
    for row, box in enumerate(boxes):
        original = next((other for other in kept if ious[row, other] >= least_iou), None)
        if original is None:
            kept.append(row)
        else:
            reason = f"duplicate of annotation {boxes[original]['id']}, IoU {ious[row, original]:.3f}"
            yield Suspicion("duplicate", box["image_id"], box, reason)


def iou_matrix(boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return the IoU of every pair of boxes (x, y, w, h): [M, M]."""
    xywh = np.asarray(boxes, dtype=np.float64)
    first, last, areas = xywh[:, :2], xywh[:, :2] + xywh[:, 2:], xywh[:, 2] * xywh[:, 3]
    sides = np.minimum(last[:, None], last) - np.maximum(first[:, None], first)  # [M, M, 2]
    shared = sides.clip(min=0).prod(axis=2)
    ious: NDArray[np.float64] = shared / (areas[:, None] + areas - shared)
    return ious


def find_contradictions(split: CocoSplit) -> Iterator[Suspicion]:
    """Yield images of the same content as an earlier one of the split, but with other boxes."""
    copies: defaultdict[str, list[int]] = defaultdict(list)
    for image in split["images"]:
        copies[image["sha256"]].append(image["id"])
    several = {number for numbers in copies.values() if len(numbers) > 1 for number in numbers}
    truths: defaultdict[int, Counter[tuple[float, ...]]] = defaultdict(Counter)
    for box in split["annotations"]:
        if box["image_id"] in several:
            truths[box["image_id"]][box["category_id"], box["iscrowd"], *box["bbox"]] += 1
    paths = {image["id"]: image["file_name"] for image in split["images"] if image["id"] in several}
    for first, *others in copies.values():
        for other in others:
            if truths[other] != truths[first]:
                reason = f"the same picture as {paths[first]}, with other boxes"
                yield Suspicion("contradiction", other, None, reason)


def name_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of class names that differ by case, blanks, hyphens or underscores alone, each with the first."""
    firsts: dict[str, str] = {}
    pairs = []
    for name in names:
        plain = "".join(name.casefold().replace("-", " ").replace("_", " ").split())
        first = firsts.setdefault(plain, name)
        if first != name:
            pairs.append((first, name))
    return pairs


def _policy(checks: Checks, check: str) -> str:
    """Return the policy of a check; "" is that of what the parameters themselves leave out."""
    return str(getattr(checks, check)) if check else ""


def _describe(one: Suspicion, paths: Mapping[int, str], names: Mapping[int, str], *, split: str) -> Finding:
    path, box = paths[one.image_id], one.annotation
    if box is None:
        return Finding(split, path, path, "image", "", "", one.reason, one.check)
    x, y, width, height = box["bbox"]
    record, text = f"annotation {box['id']}", box_text((x, y, width, height))
    return Finding(split, path, path, record, names[box["category_id"]], text, one.reason, one.check)


def _drop_images(
    known: Sequence[Finding], images: set[str], lost: Mapping[str, int], checks: Checks
) -> Iterator[Finding]:
    """Yield a finding for each image that a policy drops, naming the first reason."""
    named: set[str] = set()
    for row in known:
        if row.image in images and row.image not in named and _policy(checks, row.check) == "drop_image":
            named.add(row.image)
            reason = f"{row.reason}; its {lost.get(row.image, 0)} boxes are dropped too (data.checks.{row.check})"
            yield Finding(row.split, row.file, row.image, "image", "", "", reason, row.check)
