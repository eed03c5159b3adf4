"""Sweeps made up by hand: what the rules and the page of a sweep are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.params import load_params
from pipeline.runs.sweep_folder import FINISHED
from pipeline.sweep.advice import Outcome
from pipeline.sweep.ranking import Setting, Training

PARAMS = load_params(Path(__file__).resolve().parents[3] / "params.yaml").model_dump()
SPACE = {"loss.alpha": {"uniform": [0.1, 0.9]}, "loss.gamma": {"uniform": [0.0, 4.0]}}
SWEEP = PARAMS["sweep"] | {"space": SPACE, "seeds": 1, "search": "random", "fixed": {"train.epochs": 4}}


def make_setting(
    number: int,
    settings: Mapping[str, Any],
    *scores: float,
    state: str = FINISHED,
    rise: float = 0.01,
    error: str = "",
) -> Setting:
    """A setting with a training for each score, which gained `rise` in its last evaluation."""
    trainings = [Training(seed, state, [(3, ap - rise), (4, ap)], error, 60.0) for seed, ap in enumerate(scores, 1)]
    return Setting(
        number=number,
        settings=dict(settings),
        scores=list(scores),
        states=[state] * max(1, len(scores)),
        epochs=4 if scores else 0,
        thresholds={"nms_iou": 0.5, "score_threshold": 0.05, "AP": scores[0]} if scores else None,
        trainings=trainings or [Training(1, state, [], error)],
    )


def make_outcome(settings: Sequence[Setting], *, sweep: Mapping[str, Any] | None = None, **changes: Any) -> Outcome:
    """A sweep of these settings, the best first."""
    params = {name: value for name, value in PARAMS.items() if name != "sweep"}
    params |= {"train": params["train"] | {"epochs": 4}}
    plan = {"name": "abc", "params": params, "trials": len(settings), "sweep": {**SWEEP, **(sweep or {})}}
    return Outcome(settings, plan, **changes)
