"""A proposal of what to try, and the figures that rules read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from retinanet.evaluation.analysis import Analysis, Band, ErrorKind

COCO_SIZES = ("s", "m", "l")

Row: TypeAlias = Mapping[str, float | None]
"""An epoch of plots/training.csv."""


@dataclass(frozen=True)
class Advice:
    """Something to try.

    Attributes:
        rule: name of the rule, as docs/evaluate.md lists it.
        gain: AP50 that the fault costs; what is not measured in AP50 is estimated.
        finding: what was found, a sentence.
        proposal: what to do about it, a sentence that names the parameter.
        commands: that do it, each ready to run.
    """

    rule: str
    gain: float
    finding: str
    proposal: str
    commands: Sequence[str]


def finest(bands: Sequence[Band]) -> list[Band]:
    """Bands of sizes that do not overlap: without COCO's three, which the finer ones divide."""
    finer = [band for band in bands if band.name not in COCO_SIZES]
    return finer or list(bands)


def gain_of(analysis: Analysis, kind: ErrorKind) -> float:
    """AP50 that mending a kind of error brings; 0 where it is unknown."""
    if analysis.errors is None:
        return 0.0
    gain = analysis.errors.kinds[kind].ap50_gain.value
    return 0.0 if gain is None else gain


def value_of(analysis: Analysis, name: str) -> float | None:
    """A figure of all classes together."""
    figure = analysis.overall.get(name)
    return None if figure is None else figure.value
