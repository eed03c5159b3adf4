"""The matcher as its definition says it, through the IoU of every truth with every anchor: the reference of ours."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from retinanet.anchors.matcher import BACKGROUND, IGNORED


def match_anchors(
    truths: Tensor,
    anchors: Tensor,
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    low_quality: str = "truth",
) -> Tensor:
    """[M, 4] and [A, 4] px to [A] int64: the index of the truth for foreground, BACKGROUND or IGNORED."""
    if truths.shape[0] == 0:
        return torch.full((anchors.shape[0],), BACKGROUND, dtype=torch.int64, device=anchors.device)
    # Two boxes without any area have no union; they do not overlap.
    iou = box_iou(truths, anchors).nan_to_num(nan=0.0)  # [M, A]
    best_iou, best_truth = iou.max(dim=0)  # [A]
    matches = torch.full_like(best_truth, IGNORED)
    matches[best_iou < background_iou] = BACKGROUND
    foreground = best_iou >= foreground_iou
    matches[foreground] = best_truth[foreground]
    if low_quality == "none":
        return matches
    best_of_truth = iou.amax(dim=1, keepdim=True)  # [M, 1]
    claimed = (iou == best_of_truth) & (best_of_truth > 0)  # [M, A]
    if low_quality == "anchor":
        return torch.where(claimed.any(dim=0), best_truth, matches)
    index = torch.arange(truths.shape[0], device=iou.device)[:, None]
    last_claim = torch.where(claimed, index, BACKGROUND).amax(dim=0)  # [A]
    return torch.where(last_claim >= 0, last_claim, matches)
