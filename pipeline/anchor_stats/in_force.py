"""The anchors that a training uses, whatever anchors.mode is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.anchor_stats.coverage import enclosing_size
from pipeline.anchor_stats.fitting import Boxes, fit_anchors
from pipeline.params import Params
from pipeline.params.detector import Anchors
from retinanet.data.records import Record

Scaled = Sequence[tuple[Record, Tensor, tuple[int, int]]]
"""The images of a split, as at_training_scale returns them."""


def anchors_in_force(params: Params, scaled: Scaled) -> Anchors:
    """Section anchors in mode fixed; in mode fitted its sizes and ratios are fitted to the images.

    Raises:
        ValueError: in mode fitted, when there are no boxes.
    """
    return params.anchors if params.anchors.mode == "fixed" else fit_anchors(boxes_of(params, scaled), params.anchors)


def boxes_of(params: Params, scaled: Scaled) -> Boxes:
    """What anchors are fitted to.

    Raises:
        ValueError: when there are no boxes.
    """
    boxes = torch.cat([torch.zeros(0, 4), *(rows for _, rows, _ in scaled)])
    if len(boxes) == 0:
        raise ValueError(
            "the training split has no boxes, so there is nothing that anchors could fit; set anchors.mode to fixed"
        )
    return Boxes(boxes, enclosing_size(size for *_, size in scaled), params.matcher.foreground_iou)
