"""The laws of retinanet/anchors/boxes.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_convert, clip_boxes_to_image

from retinanet.anchors.boxes import (
    MAX_LOG_RATIO,
    box_xywh_to_xyxy,
    box_xyxy_to_cxcywh,
    box_xyxy_to_xywh,
    clip_boxes,
    decode_boxes,
    encode_boxes,
)

Golden = Callable[[str], dict[str, Tensor]]
FAST_RCNN = {"stds": (0.1, 0.1, 0.2, 0.2)}

side = st.floats(1.0, 1000.0)
corner = st.floats(-500.0, 2000.0)
box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def random_boxes(generator: torch.Generator, *shape: int) -> Tensor:
    corners = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 300 - 50
    return torch.cat([corners, corners + 1 + 100 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)], -1)


def test_conversions_of_a_box_worked_by_hand() -> None:
    xyxy = torch.tensor([10.0, 20.0, 40.0, 60.0])
    # width 40 - 10 = 30 without "+1", height 60 - 20 = 40; centre (10 + 40) / 2, (20 + 60) / 2
    assert box_xyxy_to_xywh(xyxy).tolist() == [10, 20, 30, 40]
    assert box_xywh_to_xyxy(torch.tensor([10.0, 20.0, 30.0, 40.0])).tolist() == xyxy.tolist()
    assert box_xyxy_to_cxcywh(xyxy).tolist() == [25, 40, 30, 40]


@pytest.mark.parametrize(
    ("convert", "names"),
    [
        (box_xyxy_to_xywh, ("xyxy", "xywh")),
        (box_xywh_to_xyxy, ("xywh", "xyxy")),
        (box_xyxy_to_cxcywh, ("xyxy", "cxcywh")),
    ],
)
def test_conversions_are_those_of_torchvision(
    generator: torch.Generator, convert: Callable[[Tensor], Tensor], names: tuple[str, str]
) -> None:
    boxes = random_boxes(generator, 7)
    assert_close(convert(boxes), box_convert(boxes, *names))


def test_box_code_worked_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    # centre (5, 10) -> (15, 15): 10 px = 1 anchor width, 5 px = 1/4 anchor height; width 10 -> 20, height 20 -> 10
    deltas = encode_boxes(torch.tensor([[5.0, 10.0, 25.0, 20.0]]), anchor)
    assert_close(deltas, torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]]))
    # with means and stds: (1 - .5) / .1, (.25 - 0) / .1, log 2 / .2, -log 2 / .2
    normalised = encode_boxes(torch.tensor([[5.0, 10.0, 25.0, 20.0]]), anchor, means=(0.5, 0, 0, 0), **FAST_RCNN)
    assert_close(normalised, torch.tensor([[5.0, 2.5, 5 * math.log(2), -5 * math.log(2)]]))


def test_a_zero_code_gives_the_anchor(generator: torch.Generator) -> None:
    anchors = random_boxes(generator, 9)
    assert_close(decode_boxes(torch.zeros(9, 4, dtype=torch.float64), anchors), anchors)


@given(truth=box, anchor=box, mean=st.floats(-1, 1), std=st.floats(0.05, 2))
def test_decoding_the_code_of_a_box_gives_the_box(
    truth: list[float], anchor: list[float], mean: float, std: float
) -> None:
    truths, anchors = torch.tensor([truth], dtype=torch.float64), torch.tensor([anchor], dtype=torch.float64)
    code: dict[str, Any] = {"means": [mean] * 4, "stds": [std] * 4}
    deltas = encode_boxes(truths, anchors, **code)
    assert_close(decode_boxes(deltas, anchors, **code, max_log_ratio=None), truths, rtol=1e-9, atol=1e-6)


def test_a_box_grows_at_most_from_16_to_1000_px_in_one_step(golden: Golden) -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    for log_ratio in (MAX_LOG_RATIO, 10.0, 1e30):
        # 16 px * 1000 / 16 = 1000 px around the centre (8, 8)
        decoded = decode_boxes(torch.tensor([[0.0, 0.0, log_ratio, log_ratio]]), anchor)
        assert_close(decoded, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))
    # stds come first: .2 * 10 = 2 is below the limit
    small = decode_boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), anchor, **FAST_RCNN)
    assert_close(small[0, 2] - small[0, 0], torch.tensor(16 * math.exp(2)))
    assert golden("coder")["bbox_xform_clip"].item() == MAX_LOG_RATIO


def test_without_a_limit_a_box_grows_as_its_code_says() -> None:
    decoded = decode_boxes(
        torch.tensor([[0.0, 0.0, 5.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]]), max_log_ratio=None
    )
    assert_close(decoded, torch.tensor([[1 - math.exp(5), 0.0, 1 + math.exp(5), 2.0]]))


def test_clipped_boxes_lie_in_their_own_image(generator: torch.Generator) -> None:
    boxes = torch.tensor([[[-5.0, 3.0, 30.0, 50.0], [90.0, 70.0, 99.0, 80.0]]]).repeat(2, 1, 1)
    # image 0: 40 high, 20 wide; image 1: 60 high, 95 wide; a box outside becomes empty on the border
    clipped = clip_boxes(boxes, torch.tensor([[[40, 20]], [[60, 95]]]))
    assert clipped[0].tolist() == [[0, 3, 20, 40], [20, 40, 20, 40]]
    assert clipped[1].tolist() == [[0, 3, 30, 50], [90, 60, 95, 60]]
    many = random_boxes(generator, 50)
    assert_close(clip_boxes(many, torch.tensor([111, 99])), clip_boxes_to_image(many, (111, 99)))


def test_no_boxes_are_encoded_decoded_and_clipped_to_no_boxes() -> None:
    none = torch.zeros(0, 4)
    for result in (
        box_xywh_to_xyxy(none),
        box_xyxy_to_xywh(none),
        box_xyxy_to_cxcywh(none),
        encode_boxes(none, none),
        decode_boxes(none, none),
        clip_boxes(none, torch.tensor([4, 4])),
    ):
        assert result.shape == (0, 4)


def test_gradients_of_the_box_code(generator: torch.Generator) -> None:
    anchors, boxes = random_boxes(generator, 5), random_boxes(generator, 5)
    deltas = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: decode_boxes(d, anchors, **FAST_RCNN), deltas)
    assert torch.autograd.gradcheck(lambda b: encode_boxes(b, anchors, **FAST_RCNN), boxes.requires_grad_())


@pytest.mark.parametrize(
    ("peer", "code", "tolerance"),
    [("torchvision", {}, 1e-9), ("mmdet", {}, 2e-5), ("mmdet_stds", FAST_RCNN, 2e-5)],
)
def test_box_code_is_that_of_the_peers(golden: Golden, peer: str, code: dict[str, Any], tolerance: float) -> None:
    arrays = golden("coder")
    # Rows 2 and 3 hold boxes without area: every code of theirs is -inf, ours too; prepare removes such truths.
    ours = encode_boxes(arrays["gt"], arrays["anchors"], **code)
    theirs = arrays[f"{peer}_encode_float64"].double()
    assert ours.isinf().any(dim=1).nonzero().flatten().tolist() == [2, 3]
    assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_box_code_is_yhenons_for_boxes_of_a_pixel_and_more(golden: Golden) -> None:
    arrays = golden("coder")
    rows = arrays["yhenon_encode_rows_float64"]
    boxes, anchors, theirs = arrays["yh_enc_gt"][rows], arrays["yh_enc_anchors"][rows], arrays["yhenon_encode_float64"]
    ours = encode_boxes(boxes, anchors, **FAST_RCNN)
    large = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)
    assert large.sum() >= 50
    assert_close(ours[large], theirs[large], rtol=1e-6, atol=1e-6)
    # yhenon stretches thinner truths to one pixel, so it learns boxes that are not there; ours come back.
    assert_close(decode_boxes(ours, anchors, **FAST_RCNN, max_log_ratio=None), boxes)


@pytest.mark.parametrize(
    ("peer", "options"),
    [
        ("torchvision", {}),
        ("yhenon", {**FAST_RCNN, "max_log_ratio": None}),
        ("mmdet", {}),
        ("mmdet_stds", FAST_RCNN),
    ],
)
def test_decoded_boxes_are_those_of_the_peers(golden: Golden, peer: str, options: dict[str, Any]) -> None:
    arrays = golden("coder")
    ours = decode_boxes(arrays["deltas"], arrays["anchors"], **options)
    theirs = arrays[f"{peer}_decode_float64"]
    # mmdetection also keeps boxes from shrinking by more than 16 / 1000; ours may, an empty box is dropped later.
    stds = torch.tensor(options.get("stds", (1.0, 1.0, 1.0, 1.0)), dtype=torch.float64)
    log_ratios = (arrays["deltas"] * stds)[:, 2:]
    same = (log_ratios >= -MAX_LOG_RATIO).all(dim=1) | ("mmdet" not in peer)
    assert same.sum() >= 37
    assert_close(ours[same], theirs[same], rtol=1e-6, atol=1e-6)
    sides = arrays["anchors"][:, 2:] - arrays["anchors"][:, :2]
    shrunk = log_ratios < -MAX_LOG_RATIO
    assert_close((ours[:, 2:] - ours[:, :2])[shrunk], (sides * log_ratios.exp())[shrunk], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("peer", ["torchvision", "yhenon"])
def test_clipped_boxes_are_those_of_the_peers(golden: Golden, peer: str) -> None:
    arrays = golden("coder")
    height, width = arrays["clip_hw"].tolist()
    boxes, theirs = arrays[f"{peer}_decode_float64"], arrays[f"{peer}_decode_clip_float64"]
    ours = clip_boxes(boxes, arrays["clip_hw"])
    # yhenon leaves x1 > width and x2 < 0 as they are: such boxes lie outside the image; ours are empty.
    inside = ((boxes[:, :2] <= torch.tensor([width, height])) & (boxes[:, 2:] >= 0)).all(dim=1)
    if peer == "torchvision":
        inside = torch.ones_like(inside)
    assert inside.sum() > 30
    assert_close(ours[inside], theirs[inside], rtol=1e-9, atol=1e-9)
    assert ((ours[~inside, 2:] - ours[~inside, :2]).amin(dim=1) == 0).all()
