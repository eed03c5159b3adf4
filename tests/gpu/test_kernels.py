"""Kernels of a forward pass, counted on the meta device: each costs a GPU a launch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from retinanet.network.model import build_model

VIEWS = ("view", "permute", "unsqueeze", "expand", "slice", "select", "split", "detach", "squeeze", "reshape", "empty")


class Kernels(TorchDispatchMode):
    """Counts the operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split("aten.")[-1]
        if not any(view in name for view in VIEWS):
            self.counts[name.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_frozen_normalisation_costs_one_small_kernel_a_convolution() -> None:
    with torch.device("meta"):
        network = build_model(num_logits=80, backbone="resnet50", frozen_stages=2)
    images = torch.zeros(2, 3, 256, 256, device="meta")
    network(images)
    with Kernels() as kernels:
        network(images)
    counts = kernels.counts
    # ResNet-50: 53 convolutions, each with its weights times the scale. Pyramid: 8, and 2 heads of 5 on 5 levels: 50.
    assert counts["convolution"] == 53 + 8 + 50
    assert counts["mul"] == 53
    # ReLU: 49 in the backbone, 1 before P7, 4 in each head on each level. Sums: 16 shortcuts and 2 top-down.
    assert counts["relu_"] + counts["relu"] == 49 + 1 + 40
    assert counts["add_"] + counts["add"] == 16 + 2
    rest = {
        name: count
        for name, count in counts.items()
        if name not in ("convolution", "mul", "relu", "relu_", "add", "add_")
    }
    assert sum(rest.values()) <= 3  # max pooling, and the interpolation to the next level
