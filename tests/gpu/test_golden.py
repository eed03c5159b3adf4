"""Losses of the peers on the device where there is a GPU, always on the CPU, which shows that the test runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retinanet.anchors.grid import build_grid
from retinanet.losses.criterion import Criterion, ImageGroundTruth
from retinanet.network.predictions import Predictions, permute_from_N_A_K

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
    gradients = [torch.cat([level.grad.flatten() for level in levels if level.grad is not None]) for levels in maps]
    assert [gradient.device.type for gradient in gradients] == [device] * 2
    for gradient, name in zip(gradients, ("cls", "box"), strict=True):
        expected = arrays[f"{peer}_grad_{name}"].double()
        if name == "box":
            assert gradient.double().sum().item() == pytest.approx(expected.sum().item(), rel=1e-3, abs=1e-5)
        assert bool(gradient.isfinite().all())
