"""The end of a training: after its last epoch, or early by train.patience. The history alone decides.

So every worker decides the same at the same step, a resumed training as one that was not killed, and the driver knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.params.experiment import Train

History = Sequence[Mapping[str, Any]]
"""A row for each finished epoch; the evaluated ones have an AP, the last one TRAIN_AP."""

TRAIN_AP = "train_AP"
"""AP of the detector that is stored, which is that of the best epoch, on pictures that it was trained on."""


def has_ended(history: History, train: Train) -> bool:
    """Whether a training with this history is complete."""
    return len(history) >= train.epochs or ends_early(history, train)


def ends_early(history: History, train: Train) -> bool:
    """Whether a training ends before its last epoch, after train.patience evaluations without a better AP."""
    if train.patience is None or len(history) >= train.epochs:
        return False
    return count_without_gain(history)[0] >= train.patience


def count_without_gain(history: History) -> tuple[int, int]:
    """The number of evaluations since the best one, and the epoch of that; equal AP is not better.

    An evaluation without an AP, because val has no ground truth, does not count.
    """
    evaluated = [(row["AP"], row["epoch"]) for row in history if row.get("AP") is not None]
    if not evaluated:
        return 0, 0
    best = max(range(len(evaluated)), key=lambda index: evaluated[index][0])  # the first of equal ones
    return len(evaluated) - 1 - best, evaluated[best][1]


def describe_early_end(history: History, train: Train) -> str:
    """One sentence about an early end."""
    count, best = count_without_gain(history)
    return (
        f"ended early after epoch {len(history)} of {train.epochs}: no better AP on val than that of epoch {best} in "
        f"{count} evaluations (train.patience)"
    )
