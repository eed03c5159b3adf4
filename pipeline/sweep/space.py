"""Search space of a sweep: Optuna's distributions, constraints, and the parameters of a setting."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.params import Params
from pipeline.params.reading import all_complaints
from pipeline.params.sweep import CONSTRAINT, Sweep, is_number, kind_of, replaced

COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
Settings = Mapping[str, Any]
"""Dotted parameter -> value: the differences of one trial from the base."""


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return the space as Optuna's distributions."""
    return {key: distribution(kind_of(entry), entry[kind_of(entry)]) for key, entry in sweep.space.items()}


def distribution(kind: str, values: Sequence[Any]) -> BaseDistribution:
    """Return one entry as Optuna's distribution; values of other types are encoded."""
    if kind in ("choice", "grid"):
        return CategoricalDistribution([encode(value) for value in values])
    low, high, step = values[0], values[1], values[2] if kind == "quniform" else None
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=kind == "loguniform", step=1 if step is None else step)
    return FloatDistribution(low, high, log=kind == "loguniform", step=step)


def grid_values(sweep: Sweep) -> dict[str, list[Any]]:
    """Return all values of each entry of a discrete space, encoded."""
    grid = {}
    for key, found in distributions(sweep).items():
        if isinstance(found, CategoricalDistribution):
            grid[key] = list(found.choices)
        else:
            assert isinstance(found, IntDistribution | FloatDistribution) and found.step is not None
            count = round((found.high - found.low) / found.step) + 1
            grid[key] = [type(found.low)(found.low + i * found.step) for i in range(count)]
    return grid


def encode(value: Any) -> Any:
    """Encode a value for Optuna, which accepts numbers, text, booleans and null: a list becomes JSON text."""
    return json.dumps(value) if isinstance(value, list) else value


def decode(value: Any) -> Any:
    """Decode a value; a parameter's own text never starts with a bracket. Floats are rounded to 6 digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")  # the printed value is the trained one
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def broken_constraint(constraints: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """Return the first violated constraint, None if all hold.

    Args:
        values: all of params.yaml by dotted names, including the setting.
    """
    for text in constraints:
        match = CONSTRAINT.match(text)
        assert match is not None, text
        left, right = (float(name) if is_number(name) else values[name] for name in (match[1], match[3]))
        if not COMPARISONS[match[2]](left, right):
            return text
    return None


def params_with(params: Params, settings: Settings) -> Params:
    """Return the parameters with values replaced at dotted keys.

    Raises:
        ValueError: naming what the values are together and cannot be.
    """
    content = replaced(params.model_dump(exclude={"sweep"}), settings)
    changed = Params.model_validate(content)
    complaints = list(all_complaints(changed))
    if complaints:
        raise ValueError("; ".join(complaints))
    return changed


def format_settings(settings: Settings) -> str:
    """Format parameters for messages."""
    words = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    ]
    return ", ".join(words) or "params.yaml unchanged"
