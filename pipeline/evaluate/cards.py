"""Pictures of reports/evaluate.html: the worst mistakes, the best and some random pictures, labels to check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.charts import KIND_NAMES
from pipeline.pages.album import Card, Mark, mark_of, union
from retinanet.evaluation.analysis import ERROR_KINDS, Errors, LabelMistake

PER_KIND = 24  # cards of a kind of mistake, dealt over the classes
BEST, RANDOM, SUSPECTS = 8, 16, 24
MISTAKE_NAMES = {"not labelled": "not labelled?", "other class": "other class?", "box": "box off?"}
CLASSIFICATION, LOCALISATION = (ERROR_KINDS.index(kind) for kind in ("classification", "localisation"))


@dataclass(frozen=True)
class Judged:
    """What is shown of a split: every truth, and the detections in use.

    Attributes:
        shown: [D] detections that are drawn: at the working point, or above a score without one.
        found: [G] truths that one of these found.
        by_image: image id -> rows of its detections that are shown, and of its truths.
    """

    errors: Errors
    names: Sequence[str]
    shown: NDArray[np.bool_]
    found: NDArray[np.bool_]
    by_image: Mapping[int, tuple[list[int], list[int]]]


def judge(errors: Errors, names: Sequence[str], image_ids: Iterable[int], *, score: float) -> Judged:
    """Choose the detections that are shown.

    Args:
        score: lowest of a detection that is shown, for a detector without a working point.
    """
    detections, truths = errors.detections, errors.truths
    shown, found = detections.in_use, truths.found_in_use
    if not shown.any():
        shown = detections.scores >= score
        found = np.zeros(len(truths.labels), dtype=bool)
        found[detections.truths[shown & (detections.kinds == -1)]] = True
    by_image: dict[int, tuple[list[int], list[int]]] = {int(image_id): ([], []) for image_id in image_ids}
    for place, rows in ((0, np.flatnonzero(shown)), (1, np.arange(len(truths.labels)))):
        ids = (detections, truths)[place].image_ids[rows]
        for row, image_id in zip(rows.tolist(), ids.tolist(), strict=True):
            by_image[image_id][place].append(row)
    return Judged(errors, names, shown, found, by_image)


def marks_of(judged: Judged, image_id: int) -> list[Mark]:
    """All boxes of a picture."""
    detections, truths = judged.by_image[image_id]
    return [truth_mark(judged, row) for row in truths] + [detection_mark(judged, row) for row in detections]


def truth_mark(judged: Judged, row: int) -> Mark:
    """A truth: found, or missed."""
    truths = judged.errors.truths
    is_found = bool(judged.found[row])
    name = judged.names[truths.labels[row]]
    return mark_of(truths.boxes[row], "truth" if is_found else "missed", "" if is_found else f"{name} missed")


def detection_mark(judged: Judged, row: int) -> Mark:
    """A detection: right (or on a crowd), or wrong."""
    detections = judged.errors.detections
    text = f"{judged.names[detections.labels[row]]} {detections.scores[row]:.2f}"
    return mark_of(detections.boxes[row], "wrong" if detections.kinds[row] >= 0 else "right", text)


def worst_cards(judged: Judged) -> list[Card]:
    """Mistakes by kind in turn, the worst of each kind first: the surest detections, and the largest missed objects."""
    detections = judged.errors.detections
    lists = [_missed_cards(judged)]
    for kind, name in enumerate(ERROR_KINDS):
        rows = np.flatnonzero(judged.shown & (detections.kinds == kind))  # by falling score
        if name != "missed" and len(rows):
            lists.append([_wrong_card(judged, row, name) for row in deal(rows.tolist(), detections.labels, PER_KIND)])
    return [card for turn in zip_longest(*lists) for card in turn if card is not None]


def deal(rows: Sequence[int], labels: NDArray[np.int64], count: int) -> list[int]:
    """At most `count` of the rows, one of each class in turn, in the order given."""
    own: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        own[int(labels[row])].append(row)
    turns = [row for turn in zip_longest(*own.values()) for row in turn if row is not None]
    chosen = set(turns[:count])
    return [row for row in rows if row in chosen]


def _missed_cards(judged: Judged) -> list[Card]:
    """Truths that no shown detection found; those that a shown detection mistook are shown by its own card."""
    detections, truths = judged.errors.detections, judged.errors.truths
    mistook = judged.shown & np.isin(detections.kinds, (CLASSIFICATION, LOCALISATION))
    open_rows = np.setdiff1d(np.flatnonzero(~judged.found), detections.truths[mistook])
    sizes = side_of(truths.boxes)
    ordered = open_rows[np.argsort(-sizes[open_rows], kind="stable")]
    weak: dict[int, int] = {}
    for row in np.flatnonzero(~judged.shown & (detections.truths >= 0)).tolist():  # the first is the surest
        weak.setdefault(int(detections.truths[row]), row)
    cards = []
    for row in deal(ordered.tolist(), truths.labels, PER_KIND):
        name = judged.names[truths.labels[row]]
        best = weak.get(row)
        there = "no detection there"
        if best is not None:
            other = judged.names[detections.labels[best]]
            there = f"best there: {other} {detections.scores[best]:.2f}, IoU {detections.ious[best]:.2f}"
        mark = truth_mark(judged, row)
        cards.append(
            Card(
                image_id=int(truths.image_ids[row]),
                kind="missed",
                badge=KIND_NAMES["missed"],
                lines=[name, there],
                caption=f"missed: {name}, {mark.w:.0f} x {mark.h:.0f} px; {there}",
                classes=[int(truths.labels[row])],
                score=0.0 if best is None else round(float(detections.scores[best]), 4),
                size=round(float(sizes[row]), 1),
                marks=[mark],
                focus=truths.boxes[row].tolist(),
            )
        )
    return cards


def _wrong_card(judged: Judged, row: int, kind: str) -> Card:
    """A detection that is wrong, with the truth there."""
    detections, truths = judged.errors.detections, judged.errors.truths
    truth, name = int(detections.truths[row]), judged.names[detections.labels[row]]
    mark, score = detection_mark(judged, row), float(detections.scores[row])
    there, classes, marks, box = "no object there", [int(detections.labels[row])], [mark], None
    if truth >= 0:
        other = judged.names[truths.labels[truth]]
        there = f"there: {other}, IoU {detections.ious[row]:.2f}"
        classes, marks = sorted({*classes, int(truths.labels[truth])}), [truth_mark(judged, truth), mark]
        box = truths.boxes[truth]
    return Card(
        image_id=int(detections.image_ids[row]),
        kind=kind,
        badge=KIND_NAMES[kind],
        lines=[f"{name} {score:.2f}", there],
        caption=f"{KIND_NAMES[kind]}: {name} with score {score:.2f}; {there}",
        classes=classes,
        score=round(score, 4),
        size=round(float(side_of(detections.boxes[row])), 1),
        marks=marks,
        focus=union(detections.boxes[row], box),
    )


def side_of(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Square root of the area, px."""
    sides = np.asarray(boxes[..., 2:] - boxes[..., :2], dtype=np.float64).clip(0)
    return np.asarray(np.sqrt(sides.prod(axis=-1)))


def whole_cards(judged: Judged, names: Mapping[int, str], *, seed: int) -> list[Card]:
    """The best pictures, with most objects and no mistake, and a random choice that depends on the seed alone."""
    detections = judged.errors.detections
    tallies: dict[int, tuple[int, int, int]] = {}  # right, wrong, missed
    for image_id, (rows, truths) in judged.by_image.items():
        wrong = int(np.count_nonzero(detections.kinds[rows] >= 0))
        right = int(np.count_nonzero(detections.kinds[rows] == -1))
        tallies[image_id] = right, wrong, int(np.count_nonzero(~judged.found[truths]))
    clean = [image_id for image_id, (right, wrong, missed) in tallies.items() if right and not wrong + missed]
    best = sorted(clean, key=lambda image_id: (-tallies[image_id][0], image_id))[:BEST]
    ids = sorted(judged.by_image)
    chosen = np.random.default_rng(seed).permutation(len(ids))[:RANDOM]
    pairs = [(image_id, "best") for image_id in best] + [(ids[place], "random") for place in sorted(chosen.tolist())]
    cards = []
    for image_id, kind in pairs:
        right, wrong, missed = tallies[image_id]
        tally = f"{right} right, {wrong} wrong, {missed} missed"
        caption = f"{names[image_id]}: {tally}"
        cards.append(Card(image_id=image_id, kind=kind, lines=[tally, names[image_id]], caption=caption))
    return cards


def suspect_cards(mistakes: Sequence[LabelMistake], names: Sequence[str]) -> list[Card]:
    """Labels to check first."""
    cards = []
    for one in mistakes[:SUSPECTS]:
        text = f"{names[one.label]} {one.score:.2f}"
        marks: list[Mark] = [mark_of(one.box, "wrong", text)]
        there, classes = "not labelled", [one.label]
        if one.truth_box is not None and one.truth_label is not None:
            marks.insert(0, mark_of(one.truth_box, "missed", names[one.truth_label]))
            there = f"labelled: {names[one.truth_label]}, IoU {one.iou:.2f}"
            classes = sorted({one.label, one.truth_label})
        file = one.file_name if one.truth_id is None else f"{one.file_name}, annotation {one.truth_id}"
        values: dict[str, Any] = {"score": round(one.score, 4), "size": round(float(side_of(np.array(one.box))), 1)}
        cards.append(
            Card(
                image_id=one.image_id,
                kind=one.kind.replace(" ", "-"),
                badge=MISTAKE_NAMES[one.kind],
                lines=[text, there],
                caption=f"{MISTAKE_NAMES[one.kind]} {text}; {there}; {file}",
                classes=classes,
                marks=marks,
                focus=union(one.box, one.truth_box),
                **values,
            )
        )
    return cards
