"""What is known about a training that has learnt nothing, and a possible cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.anchor_stats.coverage import Coverage
from pipeline.params import Params

Row = Mapping[str, float | None]
"""An epoch of plots/training.csv."""


@dataclass(frozen=True)
class SplitCounts:
    """A prepared split: its number of images, and the boxes of each class, without crowds."""

    images: int
    boxes: dict[str, int]


@dataclass(frozen=True)
class FirstStep:
    """The class head before any training, on pictures of train.

    Attributes:
        loss: mean cross entropy of an anchor and class taken as background, -log(1 - p).
        expected: the same of the paper's prior of 0.01: -log 0.99.
    """

    loss: float
    expected: float


@dataclass(frozen=True)
class Trained:
    """The trained detector.

    Attributes:
        class_names: in its order.
        model: section model with which it was trained.
        highest: score of all anchors and classes.
        share: of the anchors with a score over 0.05.
        train_ap, test_ap: on a sample of train, and of the evaluated split; None without ground truth.
    """

    class_names: list[str]
    model: dict[str, Any]
    highest: float
    share: float
    train_ap: float | None
    test_ap: float | None


@dataclass(frozen=True)
class Evidence:
    """What the checks look at; what is None or empty is unknown.

    Attributes:
        test: name of the evaluated split.
        splits: by name.
        images_per_pass: pictures that a worker's forward pass sees in training.
        coverage: of the boxes of train by the anchors, after resizing.
    """

    params: Params
    test: str
    splits: Mapping[str, SplitCounts]
    images_per_pass: int
    coverage: Coverage | None = None
    first_step: FirstStep | None = None
    history: Sequence[Row] = field(default_factory=list)
    trained: Trained | None = None


@dataclass(frozen=True)
class Cause:
    """A possible cause.

    Attributes:
        name: short.
        likelihood: 0 to 1, by which causes are sorted: how surely what was found keeps AP at 0.
        finding: what was found, a sentence.
        remedy: what to do, a sentence that names the setting.
        settings: dotted key -> value of params.yaml; empty where none helps.
    """

    name: str
    likelihood: float
    finding: str
    remedy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
