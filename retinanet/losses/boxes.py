"""Box losses: two on the box code, two on boxes in px."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7  # torchvision's, in its losses of these names


def smooth_l1_loss(predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """[F, 4] codes to [F] losses: quadratic below beta, linear above; beta -> 0 is L1 (Girshick 2015, equation 3)."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(dim=1)


def l1_loss(predicted: Tensor, target: Tensor, *, beta: float = 0.0) -> Tensor:
    """[F, 4] codes to [F] losses; beta is smooth L1's parameter and has no effect here."""
    return F.l1_loss(predicted, target, reduction="none").sum(dim=1)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 4] boxes in px to [F] losses 1 - GIoU (Rezatofighi et al. 2019)."""
    inter, union = _inter_and_union(predicted, target)
    enclosing = _enclosing_sides(predicted, target)
    area = enclosing[:, 0] * enclosing[:, 1]
    return 1 - (inter / (union + EPSILON) - (area - union) / (area + EPSILON))


def ciou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 4] boxes in px to [F] losses 1 - CIoU (Zheng et al. 2020)."""
    inter, union = _inter_and_union(predicted, target)
    iou = inter / (union + EPSILON)
    diagonal = _enclosing_sides(predicted, target).square().sum(dim=1) + EPSILON
    distance = (_centres(predicted) - _centres(target)).square().sum(dim=1)
    angle, true_angle = (torch.atan(_sides(boxes)[:, 0] / _sides(boxes)[:, 1]) for boxes in (predicted, target))
    shape = 4 / math.pi**2 * (true_angle - angle).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + EPSILON)
    return 1 - iou + distance / diagonal + weight * shape


def _inter_and_union(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[F] px^2 each. Without torchvision's boolean mask, for which a GPU is waited for."""
    shared = torch.minimum(predicted[:, 2:], target[:, 2:]) - torch.maximum(predicted[:, :2], target[:, :2])
    inter = torch.where((shared > 0).all(dim=1), shared[:, 0] * shared[:, 1], 0.0)
    areas = [_sides(boxes)[:, 0] * _sides(boxes)[:, 1] for boxes in (predicted, target)]
    return inter, areas[0] + areas[1] - inter


def _enclosing_sides(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 2] width and height of the smallest box around both."""
    return torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])


def _sides(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] + boxes[:, :2]) / 2


# Losses on the box code, and losses on decoded boxes in px.
CODE_LOSSES: dict[str, Callable[..., Tensor]] = {"smooth_l1": smooth_l1_loss, "l1": l1_loss}
BOX_LOSSES: dict[str, Callable[..., Tensor]] = {"giou": giou_loss, "ciou": ciou_loss}
