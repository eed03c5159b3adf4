"""Boxes and the box code.

The convention in all modules: corners x1, y1, x2, y2 in absolute pixels, float32, width = x2 - x1, so that
a box is a region of the plane and no "+1" is ever needed. Files hold x, y, width, height (COCO); the conversion
happens only where files are read and where detections are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# The largest box decoded from a 16 px anchor is 1000 px; larger codes come from untrained heads and would overflow exp
# (Detectron's bbox_xform_clip).
MAX_LOG_RATIO = math.log(1000.0 / 16.0)


def box_xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] corner and size to [..., 4] two corners."""
    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x, y, x + width, y + height], dim=-1)


def box_xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """[..., 4] two corners to [..., 4] corner and size."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1, y1, x2 - x1, y2 - y1], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] two corners to [..., 4] centre and size."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)


def encode_boxes(
    boxes: Tensor, anchors: Tensor, *, means: Sequence[float] = (0, 0, 0, 0), stds: Sequence[float] = (1, 1, 1, 1)
) -> Tensor:
    """Encode boxes relative to anchors: centre offset in anchor sides, log of the size ratios (Girshick et al. 2014).

    Args:
        boxes: [..., 4] px, of positive area.
        anchors: [..., 4] px.
        means, stds: of the four numbers, which are normalised with them.

    Returns:
        [..., 4] deltas dx, dy, dw, dh.
    """
    box, anchor = box_xyxy_to_cxcywh(boxes), box_xyxy_to_cxcywh(anchors)
    offsets = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    log_ratios = torch.log(box[..., 2:] / anchor[..., 2:])
    deltas = torch.cat([offsets, log_ratios], dim=-1)
    mean, std = _constants(tuple(means), tuple(stds), deltas.dtype, deltas.device)
    return (deltas - mean) / std


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    *,
    means: Sequence[float] = (0, 0, 0, 0),
    stds: Sequence[float] = (1, 1, 1, 1),
    max_log_ratio: float | None = MAX_LOG_RATIO,
    min_log_ratio: float | None = None,
) -> Tensor:
    """The inverse of encode_boxes, with limits on the size of a box.

    Args:
        deltas: [..., 4] box code.
        anchors: [..., 4] px.
        max_log_ratio, min_log_ratio: limits of dw and dh; None: no limit.

    Returns:
        [..., 4] boxes in px, not clipped to any image.
    """
    mean, std = _constants(tuple(means), tuple(stds), deltas.dtype, deltas.device)
    deltas = deltas * std + mean
    anchor = box_xyxy_to_cxcywh(anchors)
    centres = anchor[..., :2] + deltas[..., :2] * anchor[..., 2:]
    log_ratios = deltas[..., 2:]
    if max_log_ratio is not None or min_log_ratio is not None:
        log_ratios = log_ratios.clamp(min_log_ratio, max_log_ratio)
    half_sides = anchor[..., 2:] * torch.exp(log_ratios) / 2
    return torch.cat([centres - half_sides, centres + half_sides], dim=-1)


@lru_cache(maxsize=64)
def _constants(
    means: tuple[float, ...], stds: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Means and standard deviations, [4] each, copied to a device once: each copy of a list would wait for it."""
    return torch.tensor(means, dtype=dtype, device=device), torch.tensor(stds, dtype=dtype, device=device)


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Move corners outside an image to its border.

    Args:
        boxes: [..., 4] px.
        image_sizes: [..., 2] height and width in px, broadcast against boxes.
    """
    height, width = image_sizes.to(boxes.dtype).unbind(-1)
    limits = torch.stack([width, height, width, height], dim=-1)  # [..., 4]
    return torch.minimum(boxes.clamp(min=0), limits)
