"""The model card: what a detector was trained on, how well it does, and where it comes from, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from retinanet.evaluation.analysis import Figure
from retinanet.evaluation.working_point import WorkingPoints, choose_points, describe_target, parse_target

MAX_DESCRIPTION = 5000
"""MLflow's limit for the description of a model version, in characters."""

UNKNOWN = "not evaluated"

TORCHVISION = "torchvision's {} weights (BSD-3-Clause; torchvision warns that the data set may add terms of its own)"
LICENCES = {
    "None": "random weights",
    "null": "random weights",
    "imagenet": TORCHVISION.format("ImageNet"),
    "coco": TORCHVISION.format("COCO"),
    "coco_v1": TORCHVISION.format("COCO"),
}
"""Weights by model.weights, with their licence."""


@dataclass(frozen=True)
class Measured:
    """Figures of a detector on a split.

    Attributes:
        figures: AP, AP50, .. and per_class.<name>.AP, with their bootstrap intervals where they were resampled.
        images: number of images of the split, if known.
    """

    split: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    images: int | None = None


class ClassRow(NamedTuple):
    """A row of the card's table, as text."""

    name: str
    ap: str
    interval: str
    threshold: str
    precision: str
    recall: str


class Card(NamedTuple):
    """A model card.

    Attributes:
        text: with all classes.
        description: the same, without the classes that exceed MLflow's limit.
        tags: the working point and its thresholds, for a model version.
    """

    text: str
    description: str
    tags: dict[str, str]


def model_card(
    path: Path, *, measured: Measured, params: Mapping[str, object], tags: Mapping[str, str], run_id: str | None
) -> Card:
    """Make the card of a detector's file.

    Args:
        params: dotted name -> value of params.yaml, as its run has it.
        tags: of the run, as of provenance_tags.
        run_id: of its MLflow run.
    """
    from retinanet.inference.detector_file import load_detector

    weights, description = load_detector(path)
    target = parse_target(target_of(params))
    points = choose_points(description, target)
    rows = class_rows(description, measured, points)
    content = {
        "headline": headline(measured),
        "run_digest": description["run"]["digest"],
        "classes": rows,
        "measured": measured_on(measured),
        "working_point": working_point(points, describe_target(target), description),
        "data": data_of(params, tags),
        "licence": licence_of(str(params.get("model.weights"))),
        "size": size_of(path, sum(value.numel() for value in weights.values()), description),
        "code": code_of(tags, run_id),
        "reproduce": tags.get("reproduce"),
    }
    text = render(content, len(rows))
    shown = len(rows)
    while shown and len(render(content, shown)) > MAX_DESCRIPTION:
        shown -= 1
    return Card(text, render(content, shown)[:MAX_DESCRIPTION], point_tags(rows, points, describe_target(target)))


def render(content: Mapping[str, Any], shown: int) -> str:
    """Fill in the template, with so many classes."""
    loader = PackageLoader("pipeline.tracking", ".")
    environment = Environment(loader=loader, autoescape=False, undefined=StrictUndefined)  # Markdown, not HTML
    return environment.get_template("card.md").render(**content, shown=shown).rstrip() + "\n"


def headline(measured: Measured) -> str:
    """AP and AP50 with the split: `AP 0.637 (95 % 0.601 to 0.670), AP50 0.865 on test`."""
    texts = []
    for name in ("AP", "AP50"):
        figure = measured.figures.get(name)
        if figure is not None and figure.value is not None:
            between = f" (95 % {figure.low:.3f} to {figure.high:.3f})" if figure.low is not None else ""
            texts.append(f"{name} {figure.value:.3f}{between}")
    return f"{', '.join(texts) or UNKNOWN} on {measured.split}"


def measured_on(measured: Measured) -> str:
    """On what the figures were measured."""
    if headline(measured).startswith(UNKNOWN):
        return "Its AP is not known."
    if measured.images is None:
        return f"AP is that of the best epoch on {measured.split}, on which this epoch was chosen."
    return (
        f"AP is measured on the {measured.images} images of {measured.split}; intervals are of a bootstrap over them."
    )


def class_rows(description: Mapping[str, Any], measured: Measured, points: WorkingPoints | None) -> list[ClassRow]:
    """AP of every class, with its threshold and what val gives at it."""
    rows = []
    for k, category in enumerate(description.get("categories", [])):
        name = str(category["name"])
        figure = measured.figures.get(f"per_class.{name}.AP", Figure(None))
        point = points.classes[k] if points else None
        rows.append(
            ClassRow(
                name=name,
                ap=number(figure.value),
                interval="-" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}",
                threshold="-" if points is None else number(points.thresholds[k]),
                precision=number(point.precision if point else None),
                recall=number(point.recall if point else None),
            )
        )
    return rows


def number(value: float | None) -> str:
    """Three decimals, - for an unknown value."""
    return "-" if value is None else f"{value:.3f}"


def target_of(params: Mapping[str, object]) -> str:
    """evaluate.working_point, as parse_target reads it; f1 for a run without one."""
    for name in ("precision", "recall"):
        value = params.get(f"evaluate.working_point.{name}")
        if value is not None:
            return f"{name}={value}"
    return str(params.get("evaluate.working_point", "f1"))


def working_point(points: WorkingPoints | None, target: str, description: Mapping[str, Any]) -> str:
    """What the thresholds are, and the temperature."""
    if points is None:
        return "The model has no working point; choose a threshold."
    use = ", which the served model uses" if target == describe_target("f1") else ""
    text = f"Thresholds, precision and recall are those of the {target} on val{use}."
    temperature = description["working_point"].get("temperature")
    if temperature is None:
        return text
    return f"{text} They are of raw scores; `calibrate` divides the logits of both by the temperature {temperature:g}."


def point_tags(rows: list[ClassRow], points: WorkingPoints | None, target: str) -> dict[str, str]:
    """The working point as tags of a model version."""
    if points is None:
        return {}
    thresholds = ", ".join(f"{row.name} {row.threshold}" for row in rows)
    return {"working_point": f"{target} on val", "thresholds": thresholds}


def licence_of(weights: str) -> str:
    """What model.weights names, with its licence where it is known."""
    return LICENCES.get(weights, f"{weights}, whose licence is not recorded")


def data_of(params: Mapping[str, object], tags: Mapping[str, str]) -> str:
    """Format and place of the data, and the digest of the training split."""
    place = f"{params.get('data.format', 'unknown format')}, {params.get('data.root', 'unknown place')}"
    return f"{place}; SHA-256 of the prepared training split {tags.get('data_hash', 'unknown')[:12]}"


def size_of(path: Path, values: int, description: Mapping[str, Any]) -> str:
    """Network, numbers in the file, and the size of images."""
    model, transforms = description.get("model", {}), description.get("transforms", {})
    return (
        f"{model.get('backbone')}, {values / 1e6:.1f} million values, {path.stat().st_size / 1e6:.1f} MB; "
        f"images are resized to {transforms.get('short_side')} px, at most {transforms.get('long_side')} px"
    )


def code_of(tags: Mapping[str, str], run_id: str | None) -> str:
    """Commit, MLflow run and versions."""
    commit = tags.get("git.commit", "unknown")
    dirty = " with uncommitted changes" if tags.get("git.dirty") == "true" else ""
    run = f", MLflow run {run_id}" if run_id else ""
    return f"commit {commit}{dirty}{run}, torch {tags.get('torch', 'unknown')}, Python {tags.get('python', 'unknown')}"
