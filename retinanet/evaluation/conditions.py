"""AP under each condition: the images of one value of a column of the data set, such as a camera or a site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from retinanet.evaluation.analysis import Condition
from retinanet.evaluation.bootstrap import average_precision, describe_figure, mean_over_classes
from retinanet.evaluation.class_matches import ClassMatches
from retinanet.evaluation.judged_split import JudgedSplit
from retinanet.evaluation.matching import IOU_50

MOST_VALUES = 12  # of a column, the most frequent ones; the patient of an image is no condition of its own


def measure_conditions(split: JudgedSplit, matches: Sequence[ClassMatches]) -> list[Condition]:
    """Judge the images of each value of each column, the most frequent value first; none for a value of all images.

    The columns are in `columns` of each image of the truth, name -> value; None and absent columns are no value.
    """
    images = split.truth["images"]
    found: list[Condition] = []
    for column in dict.fromkeys(name for image in images for name in image.get("columns") or {}):
        values = [(image.get("columns") or {}).get(column) for image in images]
        counts = Counter(str(value) for value in values if value is not None)
        for value, num_images in counts.most_common(MOST_VALUES) if len(counts) > 1 else []:
            own = np.array([other is not None and str(other) == value for other in values])
            found.append(_measure(split, matches, own, column, value, num_images))
    return found


def _measure(
    split: JudgedSplit, matches: Sequence[ClassMatches], own: np.ndarray, column: str, value: str, num_images: int
) -> Condition:
    """Of the images that are `own`, [N]: the others weigh nothing, and their detections are left out for speed."""
    within = [one.only(own[one.images])._replace(num_truths=one.num_truths * own) for one in matches]
    precision = average_precision(within, split.weights, track=split.track(f"AP {column} {value}"))
    return Condition(
        column=column,
        value=value,
        num_images=num_images,
        num_truths=int(sum(one.num_truths.sum() for one in within)),
        ap=describe_figure(mean_over_classes(precision.mean(axis=2))),
        ap50=describe_figure(mean_over_classes(precision[:, :, IOU_50])),
    )
