"""What to try first: the rules that apply to a detector, the costliest fault first."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluate.curve_rules import CURVE_RULES
from pipeline.evaluate.error_rules import RULES
from pipeline.evaluate.proposals import Advice, Row, value_of
from pipeline.params import Params
from retinanet.evaluation.analysis import Analysis

NOTHING_LEARNT = 0.01  # AP below which pipeline.diagnose helps, not a parameter


def advise(analysis: Analysis, params: Params, history: Sequence[Row] = ()) -> list[Advice]:
    """Advice by falling gain; empty where no rule applies.

    Args:
        params: of the run.
        history: a row per epoch with loss, val_loss and AP, see plots/training.csv.
    """
    ap = value_of(analysis, "AP")
    if ap is not None and ap < NOTHING_LEARNT:
        return [nothing_learnt(ap)]
    found = [one for rule in RULES for one in rule(analysis, params)]
    found += [one for rule in CURVE_RULES for one in rule(history, params)]
    return sorted(found, key=lambda one: -one.gain)


def nothing_learnt(ap: float) -> Advice:
    """AP is 0: no parameter is to be tuned before the cause is found."""
    return Advice(
        "nothing learnt",
        1.0,
        f"AP is {ap:.3f}: the detector has learnt nothing that the evaluation can count.",
        "Find the cause first: python -m pipeline.diagnose checks labels, anchors, learning rate and norms.",
        ["python -m pipeline.diagnose"],
    )


def no_ground_truth(split: str) -> Advice:
    """A split without objects says nothing of parameters."""
    return Advice(
        "no ground truth",
        1.0,
        f"{split.capitalize()} has no objects, so there is nothing to measure.",
        "Evaluate on a split with objects (evaluate.split in params.yaml), or see in reports/prepare.html why this one "
        "has none.",
        (),
    )
