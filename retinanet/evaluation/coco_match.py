"""Which detection finds which truth, by COCO's rule, for all images, classes and overlaps at once.

The rule is that of pycocotools' COCOeval.evaluateImg: within an image and a class, best score first, each detection
takes the free truth of the highest IoU, one that counts before one that is ignored. Only pairs that overlap enough for
any threshold are looked at, and the n-th such detections of all images and classes choose together.

Axes: S area ranges, T IoU thresholds, N images, D detections, G truths, E pairs of a detection and a truth. Boxes are
xywh px in float64, as in the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

IOUS = np.linspace(0.5, 0.95, 10)
PAIRS_AT_ONCE = 2_000_000  # whose IoUs are computed together: some 200 MB

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Truths(NamedTuple):
    """The truths of all images.

    Attributes:
        images: [G] places of their images; labels: [G].
        boxes: [G, 4].
        areas: [G] px^2, as annotated.
        crowd: [G] is an ignored region, in which any number of detections may lie.
    """

    images: Ints
    labels: Ints
    boxes: Floats
    areas: Floats
    crowd: Bools


class Found(NamedTuple):
    """The detections of all images.

    Attributes:
        images: [D] places of their images; labels: [D].
        boxes: [D, 4].
        scores: [D].
    """

    images: Ints
    labels: Ints
    boxes: Floats
    scores: Floats


class Matches(NamedTuple):
    """How those detections that count meet the truths: class by class, best score first.

    Attributes:
        chosen: [D'] places of these detections among those given.
        ranks: [D'] 0 is the best of its image and class.
        right: [S, T, D'] finds a truth.
        ignored: [S, T, D'] neither right nor wrong: on a crowd, or it or its truth is of another size.
    """

    chosen: Ints
    ranks: Ints
    right: Bools
    ignored: Bools


Boxes = TypeVar("Boxes", Truths, Found)


class Pairs(NamedTuple):
    """Detections and truths that overlap, by detection, best truth first.

    Attributes:
        found, truth: [E] places; iou: [E].
    """

    found: Ints
    truth: Ints
    iou: Floats


class Overlaps(NamedTuple):
    """Truths and detections class by class and image by image, best score first, and which of them overlap.

    Attributes:
        truths: all of them; found: those detections that may count.
        order: [D] places of these detections among those given.
        group: [D] numbers of their class and image, rising.
        by_class: [D] the order class by class, best score first.
        pairs: of found and truths.
    """

    truths: Truths
    found: Found
    order: Ints
    group: Ints
    by_class: Ints
    pairs: Pairs


def match(truths: Truths, found: Found, *, num_images: int, area_ranges: Floats, most: int) -> Matches:
    """Match all detections.

    Args:
        area_ranges: [S, 2] px^2, both ends included.
        most: detections of an image and class that count, those of the highest scores; of equal ones the first.
    """
    return match_overlaps(find_overlaps(truths, found, num_images=num_images, most=most), area_ranges=area_ranges)


def find_overlaps(truths: Truths, found: Found, *, num_images: int, most: int | None = None) -> Overlaps:
    """Sort truths and detections, and find their pairs; `most` as of match, None: all."""
    truths = pick(truths, np.argsort(group_of(truths, num_images), kind="stable"))
    order = np.lexsort((-found.scores, group_of(found, num_images)))
    if most is not None:
        order = order[ranks_of(group_of(found, num_images)[order]) < most]
    found = pick(found, order)
    group = group_of(found, num_images)
    pairs = find_pairs(truths, found, group_of(truths, num_images), group)
    return Overlaps(truths, found, order, group, np.lexsort((-found.scores, found.labels)), pairs)


def keep(overlaps: Overlaps, rows: Bools) -> Overlaps:
    """Only some of the detections, [D] in the order of `found`: what find_overlaps gives of these alone."""
    place, by_class, pairs = np.cumsum(rows) - 1, overlaps.by_class, overlaps.pairs
    own = rows[pairs.found]
    return Overlaps(
        truths=overlaps.truths,
        found=pick(overlaps.found, rows),
        order=overlaps.order[rows],
        group=overlaps.group[rows],
        by_class=place[by_class[rows[by_class]]],
        pairs=Pairs(place[pairs.found[own]], pairs.truth[own], pairs.iou[own]),
    )


def match_overlaps(overlaps: Overlaps, *, area_ranges: Floats) -> Matches:
    """Let detections take truths of their image and class; area_ranges as of match."""
    truths, found, by_class = overlaps.truths, overlaps.found, overlaps.by_class
    small, large = area_ranges[:, :1], area_ranges[:, 1:]  # [S, 1]
    unjudged = truths.crowd | (truths.areas < small) | (truths.areas > large)  # [S, G]
    areas = found.boxes[:, 2] * found.boxes[:, 3]
    outside = (areas < small) | (areas > large)  # [S, D']
    right = np.zeros((len(area_ranges), len(IOUS), len(areas)), dtype=bool)
    ignored = np.repeat(outside[:, None], len(IOUS), axis=1)
    for rows, taken in choose(overlaps.pairs, overlaps.group, unjudged, truths.crowd):
        hit = taken >= 0  # [S, T, D'']
        lost = np.take_along_axis(unjudged[:, None], np.maximum(taken, 0), axis=2)
        right[:, :, rows] = hit & ~lost
        ignored[:, :, rows] = np.where(hit, lost, ignored[:, :, rows])
    ranks = ranks_of(overlaps.group)[by_class]
    return Matches(overlaps.order[by_class], ranks, right[:, :, by_class], ignored[:, :, by_class])


def pick(boxes: Boxes, rows: Ints | Bools) -> Boxes:
    """Some of the truths or detections."""
    return type(boxes)._make(field[rows] for field in boxes)


def group_of(boxes: Truths | Found, num_images: int) -> Ints:
    """One number for each class and image, class by class."""
    groups: Ints = boxes.labels * num_images + boxes.images
    return groups


def ranks_of(group: Ints) -> Ints:
    """Place of each row within its group, 0 for the first; group rises."""
    ranks: Ints = np.arange(len(group)) - np.searchsorted(group, group)
    return ranks


def find_pairs(truths: Truths, found: Found, truth_group: Ints, group: Ints) -> Pairs:
    """Pairs of one image and class that overlap enough for the lowest threshold; both groups rise."""
    first = np.searchsorted(truth_group, group, side="left")
    count = np.searchsorted(truth_group, group, side="right") - first
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, ends[-1] if len(ends) else 0, PAIRS_AT_ONCE))
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, len(group)], strict=True):
        rows = np.repeat(np.arange(start, stop), count[start:stop])
        before = ends[start:stop] - count[start:stop]
        inside = np.arange(len(rows)) - np.repeat(before - before[:1], count[start:stop])
        columns = first[rows] + inside
        iou = overlap(found.boxes[rows], truths.boxes[columns], truths.crowd[columns])
        near = iou >= IOUS[0]
        order = np.lexsort((-columns[near], -iou[near], rows[near]))  # of equal overlaps pycocotools takes the last
        parts.append(Pairs(rows[near][order], columns[near][order], iou[near][order]))
    return Pairs(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def overlap(boxes: Floats, others: Floats, crowd: Bools) -> Floats:
    """IoU of boxes and others, [..., 4] each; over a crowd the share of the box that lies in it."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    sides = np.maximum(high - low, 0.0)
    shared = sides[..., 0] * sides[..., 1]
    area = boxes[..., 2] * boxes[..., 3]
    union = np.where(crowd, area, area + others[..., 2] * others[..., 3] - shared)
    ious: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return ious


def choose(pairs: Pairs, group: Ints, unjudged: Bools, crowd: Bools) -> Iterator[tuple[Ints, Ints]]:
    """Let detections choose their truths, in each image and class one after the other.

    Args:
        group: [D] rising; unjudged: [S, G]; crowd: [G].

    Yields:
        Places of detections, and the truth that each takes, [S, T, D'']; -1: none.
    """
    seen, first, count = np.unique(pairs.found, return_index=True, return_counts=True)
    turn = np.arange(len(seen)) - np.searchsorted(group[seen], group[seen])
    taken = np.zeros((len(unjudged), len(IOUS), len(crowd)), dtype=bool)
    for each in range(int(turn.max(initial=-1)) + 1):
        now = np.flatnonzero(turn == each)
        choice = choose_best(pairs, first[now], count[now], unjudged, taken & ~crowd)
        s, t, row = np.nonzero(choice >= 0)
        taken[s, t, choice[s, t, row]] = True
        yield seen[now], choice


def choose_best(pairs: Pairs, first: Ints, count: Ints, unjudged: Bools, closed: Bools) -> Ints:
    """The best truth that is not closed for each of some detections, [S, T, D'']; -1: none.

    Args:
        first, count: [D''] each detection's part of the pairs.
        unjudged: [S, G] are taken only where no other can be.
        closed: [S, T, G].
    """
    best = np.full((*closed.shape[:2], len(first)), -1, dtype=np.int64)
    spare = best.copy()
    for place in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > place)
        truth = pairs.truth[first[rows] + place]
        free = ~closed[:, :, truth] & (pairs.iou[first[rows] + place] >= IOUS[:, None])  # [S, T, rows]
        second = np.broadcast_to(unjudged[:, None, truth], free.shape)
        for choice, wanted in ((best, free & ~second), (spare, free & second)):
            old = choice[:, :, rows]
            choice[:, :, rows] = np.where(wanted & (old < 0), truth, old)
    return np.where(best >= 0, best, spare)
