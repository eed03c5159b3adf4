"""What to try first with another detector: its faults are found as those of our own, the words name none of our keys.

docs/evaluate.md gives the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipeline.evaluate.advice import NOTHING_LEARNT
from pipeline.evaluate.error_rules import LEAST_GAIN, RULES
from pipeline.evaluate.proposals import Advice, gain_of, value_of
from pipeline.params import Params
from retinanet.evaluation.analysis import Analysis

CUT = 0.1  # a lowest score above this means that weak detections were left out of the file
PROPOSALS = {
    "small objects": "Let its network see them larger: a larger input, or large pictures cut into overlapping tiles. "
    "Where it has anchors, give it some of their size.",
    "missed objects": "Train it longer, start from pretrained weights, or take a larger backbone. Pictures like those "
    "where it misses objects help most.",
    "confused classes": "Look at the labels of these classes before anything else, then add pictures of the rarer one, "
    "or show its pictures more often.",
    "poor boxes": "Train on the overlap itself (a GIoU loss or one of its kind), give the box loss more weight, or let "
    "only anchors that fit better learn boxes.",
    "false alarms": "In use a higher threshold suffices, which needs no training. Best are pictures without objects "
    "that look like those where it errs.",
    "duplicates": "Suppress boxes that overlap less: a lower IoU threshold of its non-maximum suppression. Nothing is "
    "trained.",
    "strict threshold": "If a missed object costs you more than a false alarm, use lower thresholds: "
    "evaluate.working_point in params.yaml asks for a recall when the file is judged again.",
}


def advise_given(analysis: Analysis, params: Params) -> list[Advice]:
    """Advice by falling gain, without commands; empty where no rule applies."""
    ap = value_of(analysis, "AP")
    if ap is not None and ap < NOTHING_LEARNT:
        return [_nothing_fits(ap)]
    found = [one for rule in RULES for one in rule(analysis, params)]
    worded = [replace(one, proposal=PROPOSALS[one.rule], commands=()) for one in found]
    return sorted([*cut_file(analysis), *worded], key=lambda one: -one.gain)


def cut_file(analysis: Analysis) -> Iterator[Advice]:
    """Objects are missed, and the file has no weak detections, which might have found them."""
    gain = gain_of(analysis, "missed")
    if analysis.errors is None or gain < LEAST_GAIN or not len(analysis.errors.detections.scores):
        return
    lowest = float(analysis.errors.detections.scores.min())
    if lowest <= CUT:
        return
    yield Advice(
        "cut file",
        gain + 0.002,  # before the rules on missed objects: it costs no training
        f"The file has no detection with a score below {lowest:.2f}, and objects without any cost {gain:.2f} AP50.",
        "Write the file with a threshold of 0.05 or less and judge it again: AP counts weak detections, too, and the "
        "thresholds for use are chosen here.",
        (),
    )


def _nothing_fits(ap: float) -> Advice:
    """AP is 0: the file is more often wrong than the detector."""
    return Advice(
        "nothing fits",
        1.0,
        f"AP is {ap:.3f}: almost no detection fits an object of its class.",
        "Check the file before the detector: bbox is x, y, width and height (not two corners) in px of the original "
        "picture (not of the network's input), and category_id is that of this split (not the index of the class).",
        (),
    )
