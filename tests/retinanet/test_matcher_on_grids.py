"""The matcher and its sparse overlaps give, element by element, what the dense matcher gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

import retinanet.anchors.overlaps as overlaps
from retinanet.anchors.dense_matcher import match_densely
from retinanet.anchors.grid import Grid, build_grid
from retinanet.anchors.matcher import BACKGROUND, IGNORED, LOW_QUALITY, match_anchors

THRESHOLDS = [(0.5, 0.4), (0.7, 0.05), (0.5, 0.5), (0.3, 0.0), (1.0, 1.0), (0.35, 0.1)]


def labels(truths: list[Tensor], grid: Grid, image_size: tuple[int, int], **options: Any) -> Tensor:
    """[N, A] as the dense matcher gives them."""
    matches = match_anchors(truths, grid, image_size, **options)
    assert torch.equal(matches.foreground, matches.foreground.unique())
    assert torch.equal(matches.ignored, matches.ignored.unique())
    num_anchors = len(grid.anchors(image_size))
    first = torch.tensor([0] + [len(boxes) for boxes in truths]).cumsum(0)
    found = torch.full((len(truths) * num_anchors,), BACKGROUND)
    found[matches.ignored] = IGNORED
    found[matches.foreground] = matches.truth - first[matches.foreground // num_anchors]
    return found.view(len(truths), num_anchors)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    side = st.sampled_from([1.0, 4.0, 16.0, 31.7, 50.0, 100.0, 300.0])
    sizes = st.lists(st.lists(side, min_size=2, max_size=2), min_size=5, max_size=5)
    return build_grid(
        offset=draw(st.sampled_from([0.0, 0.25, 0.5])),
        sizes=draw(st.none() | sizes),
        aspect_ratios=draw(st.sampled_from([(0.5, 1.0, 2.0), (1.0,), (0.1, 3.0)])),
        rounded=draw(st.booleans()),
        strides_from_image=draw(st.booleans()),
    )


@st.composite
def images_of_truths(draw: st.DrawFn, grid: Grid, image_size: tuple[int, int]) -> list[Tensor]:
    """Boxes inside, partly and wholly outside, tiny, huge, without area, inverted, equal to others, anchors, between
    two anchors of one shape, which tie, and beside all anchors, where the best IoU is 0.
    """
    anchors = grid.anchors(image_size).tolist()
    corner, side = st.floats(-100, 420, width=32), st.floats(0, 3, width=32) | st.floats(0, 600, width=32)
    box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    box |= box.map(lambda b: [float(round(x)) for x in b]) | st.sampled_from(anchors)
    left, top = grid.anchors(image_size)[:, :2].amin(dim=0).tolist()
    box |= st.sampled_from([[left - 9, 5.0, left, 50.0], [5.0, top - 9, 50.0, top]])
    box |= st.sampled_from([[5.0, 5, 5, 30], [30.0, 30, 10, 10], [-900.0, -900, 900, 900], [4.0, 4, 20, 20]])
    between = st.sampled_from([[0.0, 4, 0, 4], [4.0, 0, 4, 0], [4.0, 4, 4, 4]])  # half the finest stride
    box |= st.tuples(st.sampled_from(anchors), between).map(lambda pair: [sum(x) for x in zip(*pair, strict=True)])
    images = draw(st.lists(st.lists(box, max_size=12), min_size=1, max_size=3))
    if draw(st.booleans()):
        images = [[*boxes, *reversed(boxes[:2])] for boxes in images]  # equal boxes, so that every anchor ties
    return [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in images]


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
@settings(max_examples=80)
@given(data=st.data())
def test_labels_and_best_ious_are_those_of_the_dense_matcher(low_quality: str, data: st.DataObject) -> None:
    grid = data.draw(grids())
    image_size = data.draw(st.sampled_from([(64, 96), (100, 37), (256, 320), (65, 191)]))
    truths = data.draw(images_of_truths(grid, image_size))
    foreground_iou, background_iou = data.draw(st.sampled_from(THRESHOLDS))
    options = {
        "foreground_iou": foreground_iou,
        "background_iou": background_iou,
        "low_quality": low_quality,
    }
    anchors = grid.anchors(image_size)
    expected = torch.stack([match_densely(boxes, anchors, **options) for boxes in truths])
    assert torch.equal(labels(truths, grid, image_size, **options), expected)
    best = [box_iou(boxes, anchors).nan_to_num(nan=0.0).amax(dim=1).clamp(min=0) for boxes in truths]
    assert torch.equal(match_anchors(truths, grid, image_size, **options).best_iou, torch.cat(best))


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_labels_do_not_depend_on_how_many_pairs_are_handled_at_once(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, low_quality: str
) -> None:
    corners = torch.rand(40, 2, generator=generator) * 90
    truths = [torch.cat([corners, corners + 2 + 60 * torch.rand(40, 2, generator=generator)], dim=1)]
    expected = labels(truths, build_grid(), (64, 96), low_quality=low_quality)
    monkeypatch.setattr(overlaps, "PAIRS_AT_ONCE", 7)
    assert torch.equal(labels(truths, build_grid(), (64, 96), low_quality=low_quality), expected)


def test_labels_at_full_size_are_those_of_torchvisions_matcher(generator: torch.Generator) -> None:
    grid, image_size = build_grid(offset=0.0, rounded=True, strides_from_image=True), (800, 1344)
    side = torch.exp(torch.rand(60, 2, generator=generator) * 5 + 1)  # 3 to 400 px
    corner = torch.rand(60, 2, generator=generator) * torch.tensor([1344.0, 800])
    truths = torch.cat([corner, corner + side], dim=1)
    expected = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(truths, grid.anchors(image_size)))
    assert torch.equal(labels([truths], grid, image_size, low_quality="anchor")[0], expected)


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_a_batch_without_truths_is_background(low_quality: str) -> None:
    found = labels([torch.zeros(0, 4)] * 2, build_grid(), (64, 96), low_quality=low_quality)
    assert found.shape == (2, 1161)
    assert (found == BACKGROUND).all()


def test_an_unknown_rule_for_low_quality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low_quality is 'all', expected one of truth, anchor, none"):
        match_anchors([torch.zeros(0, 4)], build_grid(), (64, 96), low_quality="all")
