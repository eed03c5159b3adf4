"""Section sweep: the varied parameters, their ranges, and the search."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from pipeline.params.reading import flatten, nearest
from pipeline.params.section import Count, Fraction, Section

Value = Any
"""A value of a parameter: number, text, true, null, or a list."""

KINDS = ("choice", "grid", "uniform", "loguniform", "quniform")
CONSTRAINT = re.compile(r"^\s*(\S+)\s*(<=|>=|<|>)\s*(\S+)\s*$")
# Sections whose change needs another stage, or none at all.
ELSEWHERE = {
    "data": "is read by prepare, which a sweep does not run; vary it with `dvc exp run --queue -S`",
    "evaluate": "does not affect training",
    "postprocess": "needs no training: put it in sweep.postprocess, which searches it on the predictions of each trial",
    "sweep": "is the sweep itself",
    "seed": "is varied by sweep.seeds",
}


class Thresholds(Section):
    """Thresholds that are searched on the predictions of a trial, without training."""

    nms_iou: Annotated[list[Fraction], Field(min_length=1)]
    "IoU thresholds of non-maximum suppression."
    score_threshold: Annotated[list[Fraction], Field(min_length=1)]
    "Minimum scores of a detection."


class Sweep(Section):
    """A search space over some parameters of params.yaml, and the search."""

    space: dict[str, dict[str, list[Value]]]
    "Parameter -> {choice: [..]}, {grid: [..]}, {uniform: [a, b]}, {loguniform: [a, b]} or {quniform: [a, b, step]}."
    constraints: list[str]
    "E.g. `matcher.background_iou <= matcher.foreground_iou`; a setting that violates one is not tried."
    fixed: dict[str, Value]
    "Parameters that all trials share and that differ from params.yaml: the budget of a trial."
    points: list[dict[str, Value]]
    "Settings that are tried first; {} is params.yaml unchanged."
    search: Literal["grid", "random", "tpe"]
    "tpe: Optuna's tree-structured Parzen estimator."
    scheduler: Literal["none", "asha", "hyperband", "median", "pbt"]
    "Which trials stop early; none: no trial does."
    trials: Count
    "Total number of settings, points included; a grid ends when it is complete."
    seeds: Count
    "Training runs of each setting, with seed, seed + 1, ..."
    reduction: Annotated[int, Field(ge=2)]
    "ASHA and HyperBand keep one of this many trials at each rung."
    min_covered: Fraction
    "Settings for which a smaller fraction of the ground-truth boxes has a foreground anchor are not tried."
    postprocess: Thresholds

    def check(self) -> list[str]:
        """Check each entry of the space."""
        complaints = [complaint for key, entry in self.space.items() for complaint in check_entry(key, entry)]
        complaints += [
            f"constraints: {text!r} is not of the form `a <= b` with parameters of the space or numbers"
            for text in self.constraints
            if not CONSTRAINT.match(text)
        ]
        if not self.space and not self.points:
            complaints.append("space and points are both empty: there is nothing to try")
        if self.search == "grid" and any(kind_of(entry) in ("uniform", "loguniform") for entry in self.space.values()):
            complaints.append("search is grid, but the space has a continuous entry; use grid, choice or quniform")
        if self.scheduler == "pbt" and any(key.partition(".")[0] not in ("loss", "matcher") for key in self.space):
            complaints.append(
                "scheduler is pbt, which changes parameters during training: the space may vary only loss and matcher"
            )
        return complaints


def kind_of(entry: Mapping[str, Any]) -> str:
    """Return the sampler of an entry of the space."""
    return next(iter(entry), "")


def check_entry(key: str, entry: Mapping[str, list[Value]]) -> Iterator[str]:
    """Yield complaints about one entry of the space."""
    kind = kind_of(entry)
    if len(entry) != 1 or kind not in KINDS:
        yield f"space.{key} has {sorted(entry)}; give exactly one of {', '.join(KINDS)}"
        return
    values = entry[kind]
    if kind in ("choice", "grid"):
        if not values:
            yield f"space.{key}.{kind} is empty"
        return
    expected = 3 if kind == "quniform" else 2
    if len(values) != expected or any(
        isinstance(value, bool) or not isinstance(value, int | float) for value in values
    ):
        yield f"space.{key}.{kind} is {values}, expected {expected} numbers"
    elif not values[0] < values[1]:
        yield f"space.{key}.{kind} is {values}: the first number must be below the second"
    elif kind == "loguniform" and values[0] <= 0:
        yield f"space.{key}.{kind} is {values}: a logarithm needs numbers above 0"
    elif kind == "quniform" and values[2] <= 0:
        yield f"space.{key}.{kind} is {values}: the step must be above 0"


def check_sweep(sweep: Sweep, params: type[BaseModel], content: Mapping[str, Any]) -> Iterator[str]:
    """Return complaints about a sweep of params.yaml: unknown parameters, invalid values.

    Args:
        params: the class of the whole of params.yaml, whose content is given.
    """
    known = list(flatten(content))
    for where, key, values in every_value(sweep):
        complaint = check_key(key, known)
        if complaint:
            yield f"sweep.{where}: {complaint}"
            continue
        for value in values:
            reason = refused(params, replaced(content, {key: value}), key)
            if reason:
                yield f"sweep.{where}.{key}: {value!r} is not a valid value: {reason}"
    for text in sweep.constraints:
        names = [name for name in constrained(text) if not is_number(name)]
        yield from (
            f"sweep.constraints: {text!r}: {check_key(name, known)}" for name in names if check_key(name, known)
        )


def constrained(text: str) -> tuple[str, ...]:
    """Return both sides of a constraint."""
    match = CONSTRAINT.match(text)
    return (match[1], match[3]) if match else ()


def every_value(sweep: Sweep) -> Iterator[tuple[str, str, Sequence[Value]]]:
    """Yield key, dotted parameter, and the values to check: all choices, or both bounds."""
    for key, entry in sweep.space.items():
        kind = kind_of(entry)
        yield "space", key, entry.get(kind, []) if kind in ("choice", "grid") else entry.get(kind, [])[:2]
    for key, value in sweep.fixed.items():
        yield "fixed", key, [value]
    for point in sweep.points:
        for key, value in point.items():
            yield "points", key, [value]


def check_key(key: str, known: list[str]) -> str | None:
    """Return why a dotted name cannot be swept, None if it can."""
    if key not in known:
        return f"{key} is not a parameter{nearest(key, known)}"
    section = key.partition(".")[0]
    return f"{key} {ELSEWHERE[section]}" if section in ELSEWHERE else None


def replaced(content: Mapping[str, Any], settings: Mapping[str, Value]) -> dict[str, Any]:
    """Return a copy of a nested mapping with values replaced at dotted keys."""
    result = dict(content)
    for key, value in settings.items():
        outer, _, inner = key.partition(".")
        result[outer] = replaced(result[outer], {inner: value}) if inner else value
    return result


def refused(params: type[BaseModel], content: Mapping[str, Any], key: str) -> str | None:
    """Return pydantic's complaint about the value of one parameter, None if it is valid."""
    try:
        params.model_validate({**content, "sweep": None})
    except ValidationError as error:
        own = [details for details in error.errors() if ".".join(map(str, details["loc"])).startswith(key)]
        return str(own[0]["msg"]) if own else None
    return None


def is_number(text: str) -> bool:
    """Return whether float accepts a value."""
    try:
        float(text)
    except ValueError:
        return False
    return True
