"""Enclosing boxes (x, y, width, height) of outlines: corners, circles, ellipses, rotated boxes; NaN without numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.formats.records import Box

NAN = float("nan")
NO_BOX: Box = (NAN, NAN, NAN, NAN)

Point = tuple[float, float]


def json_number(value: object) -> float:
    """Return a number of a JSON file as float; NaN for anything else, also for integers too large for a float."""
    try:
        return float(value) if type(value) in (int, float) else NAN  # type: ignore[arg-type]
    except OverflowError:
        return NAN


def enclose(points: Sequence[Point]) -> Box:
    """Return the box of corners x, y in any order; NO_BOX unless there is one and all are finite."""
    if not points or not all(math.isfinite(x) and math.isfinite(y) for x, y in points):
        return NO_BOX
    xs, ys = zip(*points, strict=True)
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def enclose_circle(centre: Point, rim: Point) -> Box:
    """Return the box of a circle, given its centre and a point on it."""
    radius = math.dist(centre, rim)
    return enclose_ellipse(centre, (radius, radius))


def enclose_ellipse(centre: Point, radii: Point, *, degrees: float = 0.0) -> Box:
    """Return the box of an ellipse with semi-axes along x and y before it is rotated about its centre."""
    (across, along), (cosine, sine) = radii, _direction(degrees)
    return _around(centre, math.hypot(across * cosine, along * sine), math.hypot(across * sine, along * cosine))


def enclose_rotated(box: Box, degrees: float) -> Box:
    """Return the box of a box that is rotated about its centre; a box that is not rotated stays exactly the same."""
    if degrees == 0:
        return box
    x, y, width, height = box
    cosine, sine = _direction(degrees)
    half_width = (abs(width * cosine) + abs(height * sine)) / 2
    half_height = (abs(width * sine) + abs(height * cosine)) / 2
    return _around((x + width / 2, y + height / 2), half_width, half_height)


def _direction(degrees: float) -> Point:
    """Return cosine and sine; NaN for an angle that is not finite."""
    if not math.isfinite(degrees):
        return NAN, NAN
    angle = math.radians(degrees)
    return math.cos(angle), math.sin(angle)


def _around(centre: Point, half_width: float, half_height: float) -> Box:
    x, y = centre
    return (x - half_width, y - half_height, 2 * half_width, 2 * half_height)
