"""What several rooms of the detector's tests share: losses with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from retinanet.losses.criterion import Assignment, Criterion, ImageGroundTruth
from retinanet.network.predictions import Predictions, permute_to_N_A_K


def compute_value_and_slope(
    loss: Callable[..., Tensor], logits: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, *args, **kwargs)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), slope


@pytest.fixture(scope="session")
def value_and_slope() -> Callable[..., tuple[Tensor, Tensor]]:
    """A function to a loss and the derivative of its sum by the logits, its first argument."""
    return compute_value_and_slope


def run_criterion(
    criterion: Criterion, predictions: Predictions, truths: Sequence[ImageGroundTruth], normaliser: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor, Tensor, Assignment]:
    maps = [[level.detach().clone().requires_grad_() for level in maps] for maps in predictions]
    image_size = (8 * maps[0][0].shape[2], 8 * maps[0][0].shape[3])
    assignment = criterion.assign(truths, image_size)
    losses = criterion(
        Predictions(*maps), assignment, criterion.normaliser_share(assignment) if normaliser is None else normaliser
    )
    (losses["loss_cls"] + losses["loss_box"]).backward()
    gradients = [[level.grad for level in levels if level.grad is not None] for levels in maps]
    assert [len(levels) for levels in gradients] == [5, 5]  # each level of each head has one
    num_logits = maps[0][0].shape[1] // criterion.grid.anchors_per_cell
    by_logits, by_deltas = permute_to_N_A_K(gradients[0], num_logits), permute_to_N_A_K(gradients[1], 4)
    return {key: value.detach() for key, value in losses.items()}, by_logits, by_deltas, assignment


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[dict[str, Tensor], Tensor, Tensor, Assignment]]:
    """A function to the losses of a batch, the gradients [N, A, K] and [N, A, 4] of their sum, and the assignment."""
    return run_criterion
