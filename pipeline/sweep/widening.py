"""Is a value on the edge of its range, and which range goes beyond it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.params import Params
from pipeline.params.reading import all_complaints
from pipeline.params.sweep import kind_of, replaced

NEAR = 0.05  # of the range: so near to its end a value lies on the edge
STEPS = (0.5, 0.25, 0.1)  # of the range: how far to go beyond it, the first that is valid
RATIO = 10  # from the largest to the smallest of values that are spaced by a factor

Edge = Literal["low", "high"]
Entry = Mapping[str, Sequence[Any]]
"""An entry of the space: kind -> values."""


def edge_of(entry: Entry, value: Any) -> Edge | None:
    """Return the end of the range on which a value lies; None inside, and for values without an order."""
    kind = kind_of(entry)
    if not _is_number(value):
        return None
    if kind in ("choice", "grid"):
        values = sorted(entry[kind]) if all(map(_is_number, entry[kind])) else []
        if len(values) < 3:  # of two values, each is an end
            return None
        return "low" if value <= values[0] else "high" if value >= values[-1] else None
    low, high = entry[kind][:2]
    scale = math.log if kind == "loguniform" else float
    place = (scale(max(value, low)) - scale(low)) / (scale(high) - scale(low))
    near = entry[kind][2] / (high - low) / 2 if kind == "quniform" else NEAR
    return "low" if place <= near else "high" if place >= 1 - near else None


def widened(params: Mapping[str, Any], name: str, entry: Entry, value: Any) -> dict[str, list[Any]] | None:
    """Return the entry that goes beyond the edge on which a value lies; None where nothing beyond is valid.

    Args:
        params: content of params.yaml, without section sweep.
    """
    kind, edge = kind_of(entry), edge_of(entry, value)
    if edge is None:
        return None
    values = list(entry[kind])
    ends = sorted(values) if kind in ("choice", "grid") else values[:2]
    is_ratio = kind == "loguniform" or (kind in ("choice", "grid") and ends[0] > 0 and ends[-1] >= RATIO * ends[0])
    own, other = (ends[0], ends[1]) if edge == "low" else (ends[-1], ends[-2])
    # A choice goes on by the step between its last two values.
    for step in (1.0, 0.5) if kind in ("choice", "grid") else STEPS:
        beyond = own * (own / other) ** step if is_ratio else own + (own - other) * step
        if kind == "quniform":
            beyond = own + math.copysign(max(1, round(abs(beyond - own) / values[2])) * values[2], beyond - own)
        rounded = round(beyond) if all(isinstance(one, int) for one in values) else float(f"{beyond:.3g}")
        if rounded != own and _is_valid(params, name, rounded):
            return {kind: _with_end(values, kind, edge, rounded)}
    return None


def _with_end(values: list[Any], kind: str, edge: Edge, end: Any) -> list[Any]:
    if kind in ("choice", "grid"):
        return [end, *values] if edge == "low" else [*values, end]
    low, high, *rest = values
    return [end, high, *rest] if edge == "low" else [low, end, *rest]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_valid(params: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether params.yaml takes the value."""
    try:
        changed = Params.model_validate(replaced({**params, "sweep": None}, {name: value}))
    except ValidationError:
        return False
    return not list(all_complaints(changed))
