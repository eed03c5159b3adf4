"""The sigmoid form of the focal loss (paper, equation 5): the rule, then its value and gradient derived by hand.

The rule, `sigmoid_focal_loss`, is for readers and tests. Training uses its fast twins, which tests hold to it:
`focal_background` below for single logits, and sparse_sigmoid_focal_loss (maps.py) for the maps of the heads, whose
background is computed by blocks.py on a CPU and by kernel.py on a GPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float | Tensor | None, gamma: float) -> Tensor:
    """FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t) of every logit against its own target.

    Args:
        logits: any shape, float32 or float64.
        targets: the same shape, 1 for foreground, 0 for background.
        alpha: weight of foreground, 1 - alpha of background; None: no weight; a tensor broadcasts against logits.

    Returns:
        The loss per element. Its gradient by autograd is NaN where 1 - p_t is 0 and gamma < 1.
    """
    x_t = torch.where(targets == 1, logits, -logits)  # p_t = sigmoid(x_t) and 1 - p_t = sigmoid(-x_t)
    alpha_t = 1 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
    return -alpha_t * torch.sigmoid(-x_t) ** gamma * F.logsigmoid(x_t)


def focal_background(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Unweighted focal loss for target 0, and its derivative with respect to the logit.

    With p = sigmoid(x) and softplus(x) = -log(1 - p):
        FL = p^gamma softplus(x),    dFL/dx = p^gamma (gamma (1 - p) softplus(x) + p)
    Target 1 is the mirror image: FL_1(x) = FL_0(-x), dFL_1/dx = -dFL_0/dx(-x). Every finite logit and every gamma >= 0
    give a finite value and gradient, exact up to the rounding of p, times gamma. gamma = 0 is cross entropy. One pass
    yields both, and no saturated logit gives NaN.

    Args:
        logits: any shape, float32 or float64.

    Returns:
        Value and derivative, of the shape of logits.
    """
    p = torch.sigmoid(logits)
    softplus = -F.logsigmoid(-logits)
    if gamma == 0:
        return softplus, p
    modulator = p * p if gamma == 2 else p**gamma
    slope = (1 - p).mul_(softplus).mul_(gamma).add_(p).mul_(modulator)
    return softplus.mul_(modulator), slope
