"""The laws of retinanet/losses/criterion.py: some parameters give the labels, losses and gradients of each peer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from retinanet.anchors.grid import build_grid
from retinanet.losses.criterion import Assignment, Criterion, ImageGroundTruth
from retinanet.network.predictions import Predictions, permute_from_N_A_K

Golden = Callable[[str], dict[str, Tensor]]
Run = Callable[..., tuple[dict[str, Tensor], Tensor, Tensor, Assignment]]
SIZE = (64, 96)
K = 3
PEERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yhenon": (
        {},
        # Its box loss is the mean over the four numbers of each positive anchor.
        {"low_quality": "none", "normaliser": "image", "box_weight": 0.25, "box_stds": (0.1, 0.1, 0.2, 0.2)},
    ),
    "mmdet": ({"offset": 0.0}, {"low_quality": "truth", "normaliser": "batch_of_images", "box_loss": "l1"}),
    "torchvision": (
        {"offset": 0.0, "rounded": True, "strides_from_image": True},
        {"low_quality": "anchor", "normaliser": "image", "box_loss": "l1"},
    ),
}


def peer_criterion(peer: str) -> Criterion:
    anchors, options = PEERS[peer]
    return Criterion(build_grid(**anchors), K, **options)


def peer_batch(arrays: dict[str, Tensor]) -> tuple[Predictions, list[ImageGroundTruth]]:
    sizes = build_grid().map_sizes(SIZE)
    truths = [
        ImageGroundTruth(rows[rows[:, 4] >= 0, :4].float(), rows[rows[:, 4] >= 0, 4].long())
        for rows in arrays["annotations"]
    ]
    maps = [permute_from_N_A_K(arrays[key].double(), sizes) for key in ("logits", "deltas")]
    return Predictions(*maps), truths


@pytest.mark.parametrize("peer", PEERS)
def test_labels_of_the_anchors_are_those_of_the_peers(golden: Golden, peer: str) -> None:
    arrays, criterion = golden("losses"), peer_criterion(peer)
    _, truths = peer_batch(arrays)
    assignment = criterion.assign(truths, SIZE)
    for i in range(4):
        ignored = assignment.ignored.anchor[assignment.ignored.image == i]
        foreground = assignment.foreground.anchor[assignment.foreground.image == i]
        if peer != "yhenon":
            labels = arrays[f"{peer}_labels_img{i}"]
            assert ignored.tolist() == (labels == -1).nonzero()[:, 0].tolist()
            assert foreground.tolist() == (labels > 0).nonzero()[:, 0].tolist()
            boxes = assignment.truth_boxes[assignment.foreground.image == i]
            assert torch.equal(boxes, truths[i].boxes[labels[foreground].long() - 1])
        elif i != 1:
            assert len(foreground) == assignment.num_foreground[i] == arrays[f"yhenon_positives_img{i}"]
            assert len(ignored) == arrays[f"yhenon_ignored_img{i}"]


@pytest.mark.parametrize("images", ["img0", "img1", "img2", "img3", "all"])
@pytest.mark.parametrize("peer", PEERS)
def test_losses_are_those_of_the_peers(run: Run, golden: Golden, peer: str, images: str) -> None:
    arrays = golden("losses")
    predictions, truths = peer_batch(arrays)
    if peer == "yhenon":  # its probabilities are clamped to [1e-4, 1 - 1e-4]; one of these logits lies outside
        limit = math.log(9999)
        predictions = predictions._replace(
            class_logits=[level.clamp(-limit, limit) for level in predictions.class_logits]
        )
    part = slice(None) if images == "all" else slice(int(images[3:]), int(images[3:]) + 1)
    losses, _, _, _ = run(
        peer_criterion(peer), Predictions(*([level[part] for level in maps] for maps in predictions)), truths[part]
    )
    tolerance = 1e-6 if peer == "yhenon" else 1e-4  # yhenon ran in float64
    assert losses["loss_cls"].item() == pytest.approx(arrays[f"{peer}_cls_{images}"].item(), rel=tolerance)
    assert losses["loss_box"].item() == pytest.approx(arrays[f"{peer}_box_{images}"].item(), rel=tolerance)


@pytest.mark.parametrize("peer", PEERS)
def test_gradients_are_those_of_the_peers(run: Run, golden: Golden, peer: str) -> None:
    arrays = golden("losses")
    predictions, truths = peer_batch(arrays)
    _, by_logits, by_deltas, _ = run(peer_criterion(peer), predictions, truths)
    rows = arrays["grad_rows"].long()
    ours, theirs = by_logits[:, rows], arrays[f"{peer}_grad_cls"].double()
    if peer == "yhenon":  # by probabilities: dL/dx = dL/dp p (1 - p)
        p = arrays["logits"][:, rows].double().sigmoid()
        theirs = theirs * p * (1 - p)
        clamped = (p < 1e-4) | (p > 1 - 1e-4)
        assert (theirs[clamped] == 0).all()  # dead, see test_gradient_lives_where_yhenon_clamps_its_probabilities
        assert (ours[clamped] != 0).all()
        ours, theirs = ours[~clamped], theirs[~clamped]
    assert_close(ours, theirs, rtol=2e-4, atol=1e-7)
    assert_close(by_deltas, arrays[f"{peer}_grad_box"].double(), rtol=2e-4, atol=1e-7)
