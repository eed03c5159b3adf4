"""The score threshold of each class with which the command detects: the detector's working point, or a number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.detector.calibration import choose_temperature
from pipeline.params import load_params
from retinanet.evaluation.working_point import (
    Target,
    WorkingPoints,
    choose_points,
    describe_target,
    misses_target,
    parse_target,
)

WITHOUT = 0.3  # for a detector without a working point
NAMED = 10  # of more classes, only the lowest and the highest threshold are printed


class Scores(NamedTuple):
    """How a command scores detections.

    Attributes:
        thresholds: score of each of the K classes (exclusive), as it is returned.
        temperature: with which scores are calibrated; None: they are not.
    """

    thresholds: list[float]
    temperature: float | None


def choose_scores(
    description: Mapping[str, Any],
    *,
    number: float | None,
    target: str | None,
    calibrate: bool | None,
    is_projects: bool,
) -> Scores:
    """Choose both, and print them; arguments as of choose_thresholds and choose_temperature."""
    temperature = choose_temperature(description, option=calibrate, is_projects=is_projects)
    return Scores(
        choose_thresholds(description, number=number, target=target, is_projects=is_projects, temperature=temperature),
        temperature,
    )


def choose_thresholds(
    description: Mapping[str, Any],
    *,
    number: float | None,
    target: str | None,
    is_projects: bool,
    temperature: float | None = None,
) -> list[float]:
    """Choose the threshold (exclusive) of each of the K classes for the scores that are returned, and print them.

    Args:
        description: of the detector.
        number: for all classes, instead of the working point.
        target: f1, precision=P or recall=R; None: evaluate.working_point of params.yaml, or f1.
        is_projects: the detector is that of the project in the current folder.
        temperature: with which scores are calibrated; None: they are not.

    Raises:
        ValueError: when a target is given that is none, or to a detector without a working point.
    """
    names = [category["name"] for category in description["categories"]]
    if number is not None:
        return [number] * len(names)
    wanted = find_target(target, is_projects=is_projects)
    points = choose_points(description, wanted, temperature=temperature)
    if points is None and target is not None:
        raise ValueError(f"--working-point is {target}, but the model has none; give --score-threshold instead")
    if points is None:
        print(f"the model has no working point; score threshold {WITHOUT}", flush=True)
        return [WITHOUT] * len(names)
    print(describe(points, names, wanted), flush=True)
    return points.thresholds


def find_target(text: str | None, *, is_projects: bool) -> Target:
    """The target of an option, else of the project, else the best F1."""
    if text is not None:
        return parse_target(text)
    if is_projects and Path("params.yaml").is_file():
        return load_params().evaluate.working_point
    return "f1"


def describe(points: WorkingPoints, names: list[str], target: Target) -> str:
    """Format the thresholds as a line; of many classes, the lowest and the highest."""
    listed = sorted(zip(points.thresholds, names, strict=True)) if len(names) > NAMED else []
    pairs = [listed[0], listed[-1]] if listed else zip(points.thresholds, names, strict=True)
    values = (" to " if listed else ", ").join(f"{name} {threshold:.3f}" for threshold, name in pairs)
    missed = [name for name, point in zip(names, points.classes, strict=True) if point and misses_target(point, target)]
    note = f"; not reached, the nearest is used: {', '.join(missed)}" if missed else ""
    return f"score thresholds of the {describe_target(target)} on val: {values}{note}"
