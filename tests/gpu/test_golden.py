"""Losses of the peers on the device where there is a GPU, always on the CPU, which shows that the test runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from retinanet.anchors.grid import build_grid
from retinanet.losses.criterion import Criterion, ImageGroundTruth
from retinanet.network.predictions import Predictions, permute_from_N_A_K, permute_to_N_A_K

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZE, NUM_CLASSES = (64, 96), 3
PEERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mmdet": ({"offset": 0.0}, {"low_quality": "truth", "normaliser": "batch_of_images", "box_loss": "l1"}),
    "torchvision": (
        {"offset": 0.0, "rounded": True, "strides_from_image": True},
        {"low_quality": "anchor", "normaliser": "image", "box_loss": "l1"},
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("peer", PEERS)
def test_losses_and_gradients_on_a_device_are_those_of_the_peers(
    golden: Callable[[str], dict[str, Tensor]], peer: str, device: str
) -> None:
    arrays, (anchors, options) = golden("losses"), PEERS[peer]
    grid = build_grid(**anchors)
    criterion = Criterion(grid, NUM_CLASSES, **options)
    maps = [
        [level.to(device).requires_grad_() for level in permute_from_N_A_K(arrays[key].float(), grid.map_sizes(SIZE))]
        for key in ("logits", "deltas")
    ]
    truths = [
        ImageGroundTruth(rows[rows[:, 4] >= 0, :4].float(), rows[rows[:, 4] >= 0, 4].long())
        for rows in arrays["annotations"]
    ]
    assignment = criterion.assign(truths, SIZE)
    normaliser = criterion.normaliser_share(assignment).to(device)
    losses = criterion(Predictions(*maps), assignment.map(lambda values: values.to(device)), normaliser)
    assert losses["loss_cls"].item() == pytest.approx(arrays[f"{peer}_cls_all"].item(), rel=1e-4)
    assert losses["loss_box"].item() == pytest.approx(arrays[f"{peer}_box_all"].item(), rel=1e-4)
    (losses["loss_cls"] + losses["loss_box"]).backward()
    gradients = [[level.grad for level in levels if level.grad is not None] for levels in maps]
    assert {gradient.device.type for levels in gradients for gradient in levels} == {device}
    by_logits, by_deltas = (
        permute_to_N_A_K(levels, width) for levels, width in zip(gradients, (NUM_CLASSES, 4), strict=True)
    )
    rows = arrays["grad_rows"].long()
    assert_close(by_logits.cpu()[:, rows], arrays[f"{peer}_grad_cls"], rtol=2e-4, atol=1e-6, check_dtype=False)
    assert_close(by_deltas.cpu(), arrays[f"{peer}_grad_box"], rtol=2e-4, atol=1e-6, check_dtype=False)
