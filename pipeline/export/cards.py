"""The model card of what is exported: with figures of its evaluation, and intervals by a bootstrap over its images."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.reports.evaluated import check_recorded, download_evaluated
from pipeline.reports.results import JUDGED
from pipeline.tracking.card import Card, Measured, model_card
from pipeline.tracking.reading import RunReader
from pipeline.tracking.registry import RunModel, download_weights
from retinanet.evaluation.analysis import Figure
from retinanet.evaluation.bootstrap import average_precision, describe_figure, draw_weights, summarise
from retinanet.evaluation.class_matches import match_results
from retinanet.inference.detector_file import load_detector

RESAMPLES, SEED = 1000, 0


def card_of_model(model: RunModel) -> Card:
    """The card of a logged model, with the figures of the run's evaluation, or those of val if there was none."""
    with tempfile.TemporaryDirectory() as folder:
        path = download_weights(f"models:/{model.model_id}", Path(folder))
        return model_card(path, measured=measure(model), params=model.params, tags=model.tags, run_id=model.run_id)


def card_of_file(path: Path) -> Card:
    """The card of a detector's file without its run: what the file knows."""
    _, description = load_detector(path)
    known = {f"model.{key}": value for key, value in description["model"].items()}
    measured = Measured("val", {"AP": Figure(description["run"].get("AP"))})
    return model_card(path, measured=measured, params=known, tags={}, run_id=None)


def measure(model: RunModel) -> Measured:
    """The figures of a run with intervals, from the detections that its evaluation stored; test before val."""
    reader = RunReader()
    splits = reader.list_artifacts(model.run_id, JUDGED)
    split = next((name for name in ("test", "val") if name in splits), None)
    if split is None:
        best = {key.removeprefix("best."): value for key, value in model.metrics.items() if key.startswith("best.AP")}
        return Measured("val", {key: Figure(value) for key, value in best.items()})
    evaluated = download_evaluated(reader, model.run_id, split, model.metrics)
    truth = evaluated.truth
    weights = draw_weights(len(truth["images"]), RESAMPLES, seed=SEED)
    precision = average_precision(match_results(truth, evaluated.results), weights)
    values = summarise(precision, [category["name"] for category in truth["categories"]])
    figures = {name: describe_figure(numbers) for name, numbers in values.items()}
    check_recorded(evaluated, figures["AP"].value, f"MLflow run {model.run_id[:8]}")
    return Measured(split, figures, images=len(truth["images"]))
