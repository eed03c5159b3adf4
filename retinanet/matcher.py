"""The matcher: which anchor answers for which truth (paper, section 4, "Anchors").

An anchor's best truth is the one with the highest IoU (the first of equals). With IoU >= foreground_iou the anchor is
foreground for it, below background_iou it is background, between the two it is ignored: exactly .5 is foreground,
exactly .4 ignored. On top of the paper, a truth that no anchor reaches keeps its best anchors (36.2 AP against 35.5,
facebookresearch/maskrcnn-benchmark#102). An anchor that overlaps nothing never matches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

BACKGROUND = -1
IGNORED = -2
LOW_QUALITY = ("truth", "anchor", "none")


def match_anchors(
    truths: Tensor,
    anchors: Tensor,
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    low_quality: str = "truth",
) -> Tensor:
    """Assign every anchor to a truth, to the background, or to neither.

    Args:
        truths: [M, 4] px; M may be 0.
        anchors: [A, 4] px.
        low_quality: what a truth's best anchors (all that tie, of IoU > 0) become, whatever that IoU:
            "truth": foreground for this truth; where several truths claim one anchor the last wins (mmdetection).
            "anchor": foreground for the anchor's own best truth (maskrcnn-benchmark, detectron2, torchvision).
            "none": nothing, as in the paper.

    Returns:
        [A] int64: the index of the truth for foreground, BACKGROUND or IGNORED.
    """
    if low_quality not in LOW_QUALITY:
        raise ValueError(f"low_quality is {low_quality!r}, expected one of {', '.join(LOW_QUALITY)}")
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
