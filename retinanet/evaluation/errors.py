"""Detection errors by kind, and AP50 with one kind mended, after TIDE (Bolya et al. 2020, arXiv 2008.08115).

The order of the rules, and that of several errors on one truth the one with the highest score is mended, follow
the authors' tidecv; hotcoco, which follows it too, gives the same counts, and the same gains where a detection finds
something of each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.evaluation.analysis import ERROR_KINDS, IGNORED, RIGHT, ErrorKind
from retinanet.evaluation.class_matches import ClassMatches, listed_images
from retinanet.evaluation.coco_evaluator import CATEGORY, IMAGE, SCORE
from retinanet.evaluation.matching import IOU_50, Matching

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which a detection is right, and below which it is on background
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, ON_BACKGROUND = range(5)  # indices into ERROR_KINDS
VARIANTS = (None, *ERROR_KINDS, "false positives", "false negatives")
"""What is mended in each row of `mended_matches`."""


class Verdicts(NamedTuple):
    """What each of D detections and G annotations is, at IoU 0.5.

    Attributes:
        kinds: [D] index into ERROR_KINDS, or RIGHT or IGNORED.
        truths: [D] row of the annotation that it found or was taken for; -1 on background or a crowd.
        ious: [D] IoU with it.
        mended: [D] an error of classification or localisation that is the first to claim a truth which nothing found.
        found: [G] a detection was given to it.
        missed: [G] neither found nor claimed by such an error, and no crowd.
    """

    kinds: NDArray[np.int64]
    truths: NDArray[np.int64]
    ious: NDArray[np.float64]
    mended: NDArray[np.bool_]
    found: NDArray[np.bool_]
    missed: NDArray[np.bool_]


def find_errors(matching: Matching) -> Verdicts:
    """Name the kind of every detection.

    In this order: localisation, an IoU of 0.1 to 0.5 with its own class; classification, at least 0.5 with another
    class; duplicate, at least 0.5 with its own, which a detection of a higher score has taken; background, below 0.1
    with all; else both, 0.1 to 0.5 with another class.
    """
    matched, ignored, overlaps = matching.matched[IOU_50], matching.ignored[IOU_50], matching.overlaps
    own, other = overlaps.own_ious, overlaps.other_ious
    rules = [
        (ignored, IGNORED, np.full(len(own), -1), np.zeros(len(own))),
        (matched >= 0, RIGHT, matched.astype(np.int64), np.zeros(len(own))),
        ((own >= BACKGROUND) & (own < FOREGROUND), LOCALISATION, overlaps.own, own),
        (other >= FOREGROUND, CLASSIFICATION, overlaps.other, other),
        (own >= FOREGROUND, DUPLICATE, overlaps.own, own),
        (np.maximum(own, other) <= BACKGROUND, ON_BACKGROUND, np.full(len(own), -1), np.zeros(len(own))),
    ]
    conditions, kinds, truths, ious = zip(*rules, strict=True)
    kind = np.select(conditions, kinds, BOTH)
    truth = np.select(conditions, truths, overlaps.other)
    iou = np.select(conditions, ious, other)
    iou[kind == RIGHT] = _pair_ious(matching)[kind == RIGHT]
    found = np.zeros(len(matching.ground_truth.crowd), dtype=bool)
    found[truth[kind == RIGHT]] = True
    claims = np.isin(kind, (CLASSIFICATION, LOCALISATION)) & ~np.append(found, True)[truth]
    mended = _first_claims(claims, truth, matching.rows[:, SCORE])
    return Verdicts(kind, truth, iou, mended, found, _missed(matching, kind, truth))


def mended_matches(truth: Mapping[str, Any], matching: Matching, verdicts: Verdicts) -> list[ClassMatches]:
    """Matches at IoU 0.5 of each category of the truth, with a row for each of VARIANTS in place of an IoU.

    Mending moves a detection to the class of its truth (classification), makes it a true positive (localisation), or
    removes it (both, duplicate, background, and whatever claims a truth in vain); it removes a missed truth. A class
    whose truths are all removed has no AP and leaves the mean, as in COCO: hotcoco counts it with 0, tidecv only where
    it has detections.
    """
    rows, ground_truth = matching.rows, matching.ground_truth
    listed = listed_images(truth)
    claimed_class = np.append(ground_truth.category_numbers, 0)[verdicts.truths]
    moved = verdicts.mended & (verdicts.kinds == CLASSIFICATION)
    counted = ~ground_truth.crowd
    present = np.stack([counted] * len(VARIANTS))  # [V, G]
    present[VARIANTS.index("missed")] &= ~verdicts.missed
    present[VARIANTS.index("false negatives")] &= verdicts.found
    classes = []
    for category in truth["categories"]:
        number = ground_truth.categories[category["id"]]
        own = np.arange(*np.searchsorted(rows[:, CATEGORY], [number, number + 1]))
        (guests,) = np.nonzero(moved & (claimed_class == number))
        everything = np.concatenate([own, guests])
        order = everything[np.lexsort((rows[everything, IMAGE], -rows[everything, SCORE]))]
        right, ignored = _mend(verdicts.kinds[order], verdicts.mended[order], rows[order, CATEGORY] != number)
        of_class = ground_truth.category_numbers == number
        num_truths = [
            np.bincount(listed[ground_truth.image_numbers[there & of_class] - 1], minlength=len(listed))
            for there in present
        ]
        classes.append(
            ClassMatches(
                images=listed[rows[order, IMAGE].astype(np.int64) - 1],
                scores=rows[order, SCORE],
                right=right,
                ignored=ignored,
                num_truths=np.stack(num_truths),
            )
        )
    return classes


def _mend(
    kinds: NDArray[np.int64], mended: NDArray[np.bool_], guest: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """`right` and `ignored`, [V, D]; guests are of another class and become this one's where classes are mended."""
    right = np.repeat([(kinds == RIGHT) & ~guest], len(VARIANTS), axis=0)
    ignored = np.repeat([(kinds == IGNORED) | guest], len(VARIANTS), axis=0)
    for kind in (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, ON_BACKGROUND):
        ignored[VARIANTS.index(ERROR_KINDS[kind])] |= kinds == kind
    for name, becomes_right in (
        ("classification", guest),
        ("localisation", (kinds == LOCALISATION) & mended),
    ):
        right[VARIANTS.index(name)] |= becomes_right
        ignored[VARIANTS.index(name)] &= ~becomes_right
    ignored[VARIANTS.index("false positives")] |= kinds != RIGHT
    return right, ignored


def count_errors(matching: Matching, verdicts: Verdicts, kept: NDArray[np.bool_]) -> dict[ErrorKind, int]:
    """Number of errors of each kind of the detections that are kept, [D], and of the truths that these miss."""
    kinds = verdicts.kinds[kept]
    counts = {kind: int(np.count_nonzero(kinds == index)) for index, kind in enumerate(ERROR_KINDS)}
    missed = _missed(matching, verdicts.kinds[kept], verdicts.truths[kept])
    return counts | {"missed": int(np.count_nonzero(missed))}


def _missed(matching: Matching, kinds: NDArray[np.int64], truths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[G] neither found nor claimed by an error of classification or localisation, and no crowd."""
    missed: NDArray[np.bool_] = ~matching.ground_truth.crowd
    missed[truths[np.isin(kinds, (RIGHT, CLASSIFICATION, LOCALISATION))]] = False
    return missed


def confuse(
    matching: Matching, verdicts: Verdicts, kept: NDArray[np.bool_], category_numbers: Sequence[int]
) -> NDArray[np.int64]:
    """Confusion matrix of the kept detections at IoU 0.5, [K + 1, K + 1], rows the truth, columns the detection.

    The last row is background, the last column what was not detected. Each truth that no kept detection of its class
    found is given to the detection of the highest score of another class that has no truth itself. So the diagonal over
    the sum of its row is the recall at the working point.

    Args:
        category_numbers: of each class in the ground truth.
    """
    none = len(category_numbers)
    label_of = np.full(max(category_numbers, default=0) + 1, none, dtype=np.int64)
    label_of[list(category_numbers)] = np.arange(none)
    truth_labels = label_of[matching.ground_truth.category_numbers]
    labels = label_of[matching.rows[:, CATEGORY].astype(np.int64)]
    right = kept & (verdicts.kinds == RIGHT)
    free = ~matching.ground_truth.crowd
    free[verdicts.truths[right]] = False
    alone = kept & (verdicts.kinds >= 0)
    counts = np.zeros((none + 1, none + 1), dtype=np.int64)
    counts[:-1, :-1] = np.diag(np.bincount(labels[right], minlength=none))
    pairs, scores = matching.overlaps.cross_pairs, matching.rows[:, SCORE]
    ious = matching.overlaps.cross_ious
    candidates = np.flatnonzero(alone[pairs[:, 0]] & free[pairs[:, 1]])
    order = candidates[np.lexsort((-ious[candidates], -scores[pairs[candidates, 0]]))]
    for detection, truth in pairs[order].tolist():
        if alone[detection] and free[truth]:
            alone[detection] = free[truth] = False
            counts[truth_labels[truth], labels[detection]] += 1
    counts[-1, :-1] = np.bincount(labels[alone], minlength=none)
    counts[:-1, -1] = np.bincount(truth_labels[free], minlength=none)
    return counts


def _first_claims(
    claims: NDArray[np.bool_], truths: NDArray[np.int64], scores: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """[D] of the claims on each truth that of the highest score, of equal ones the first."""
    (rows,) = np.nonzero(claims)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    _, first = np.unique(truths[rows], return_index=True)
    result = np.zeros(len(claims), dtype=bool)
    result[rows[first]] = True
    return result


def _pair_ious(matching: Matching) -> NDArray[np.float64]:
    """[D] IoU of each detection with the annotation that it was matched with at IoU 0.5; 0 without one."""
    pairs, matched = matching.overlaps.pairs, matching.matched[IOU_50]
    ious = np.zeros(len(matched))
    own = matched[pairs[:, 0]] == pairs[:, 1]
    ious[pairs[own, 0]] = matching.overlaps.pair_ious[own]
    return ious
