"""Box losses: two on the box code, two on boxes in px."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss


def smooth_l1_loss(predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """[F, 4] codes to [F] losses: quadratic below beta, linear above; beta -> 0 is L1 (Girshick 2015, equation 3)."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(dim=1)


def l1_loss(predicted: Tensor, target: Tensor, *, beta: float = 0.0) -> Tensor:
    """[F, 4] codes to [F] losses; beta is smooth L1's parameter and has no effect here."""
    return F.l1_loss(predicted, target, reduction="none").sum(dim=1)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 4] boxes in px to [F] losses 1 - GIoU (Rezatofighi et al. 2019)."""
    losses: Tensor = generalized_box_iou_loss(predicted, target)
    return losses


def ciou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 4] boxes in px to [F] losses 1 - CIoU (Zheng et al. 2020)."""
    losses: Tensor = complete_box_iou_loss(predicted, target)
    return losses


# Losses on the box code, and losses on decoded boxes in px.
CODE_LOSSES: dict[str, Callable[..., Tensor]] = {"smooth_l1": smooth_l1_loss, "l1": l1_loss}
BOX_LOSSES: dict[str, Callable[..., Tensor]] = {"giou": giou_loss, "ciou": ciou_loss}
