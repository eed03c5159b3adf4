"""The anchor grid of section anchors."""

from __future__ import annotations

from pipeline.params.detector import Anchors
from retinanet.anchors.grid import Grid, build_grid


def anchor_grid(anchors: Anchors) -> Grid:
    """The grid of section anchors in mode fixed; what fitted anchors are depends on the boxes (fit_anchors)."""
    assert anchors.mode == "fixed"
    return build_grid(
        base_scale=anchors.base_scale,
        scales_per_octave=anchors.scales_per_octave,
        sizes=anchors.sizes,
        aspect_ratios=anchors.aspect_ratios,
        offset=anchors.offset,
        rounded=anchors.rounded,
        strides_from_image=anchors.strides_from_image,
    )
