"""The rule of matching anchors with ground truth (paper, section 4, "Anchors"), written down in the shortest form.

The best box of an anchor is the one with the highest IoU (the first of equals). With IoU >= foreground_iou the anchor
is foreground, below background_iou it is background, between the two it is ignored: exactly 0.5 is foreground, exactly
0.4 ignored. Beyond the paper, a box that no anchor reaches keeps its best anchors (36.2 AP against 35.5,
facebookresearch/maskrcnn-benchmark#102). An anchor without any overlap never matches.

This form computes the IoU of every box with every anchor. Training uses matcher.py, its fast twin, which computes few
of them; tests hold the two to the same labels. Only tests import this module.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from retinanet.anchors.matcher import BACKGROUND, IGNORED


def match_densely(
    truths: Tensor,
    anchors: Tensor,
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    low_quality: str = "truth",
) -> Tensor:
    """Match every anchor of one image; thresholds and low_quality as in matcher.match_anchors.

    Args:
        truths: [M, 4] px; M may be 0. A box without area overlaps nothing.
        anchors: [A, 4] px, in any order.

    Returns:
        [A] int64: the index of the box for foreground, BACKGROUND or IGNORED.
    """
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
