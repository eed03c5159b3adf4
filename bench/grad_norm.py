"""The gradient norm of a step without clipping, beside the step that has it: CPU time of one core.

    python -m bench.grad_norm

The detector of params.yaml (ResNet-18) at 8 images of 128 x 128 px, and ResNet-50 with 80 classes at 2 images of 256 x
256 px: small ones, because the norm reads the gradients of the weights alone and does not grow with the pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from retinanet.network.model import build_model

STEPS = 50
SIZES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "resnet18": ({"num_logits": 3, "norm": "group", "fpn_channels": 64, "head_channels": 64}, (8, 128)),
    "resnet50": ({"num_logits": 80}, (2, 256)),
}


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(network: nn.Module, images: torch.Tensor) -> str:
    """The medians of a network, as a line."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        found = network(images)
        torch.stack([level.square().mean() for level in [*found.class_logits, *found.box_deltas]]).sum().backward()
        optimizer.step()

    step = median(cpu_seconds(train) for _ in range(STEPS // 5))
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = median(cpu_seconds(lambda: nn.utils.get_total_norm(gradients)) for _ in range(STEPS))
    values = sum(gradient.numel() for gradient in gradients)
    return (
        f"{values / 1e6:.1f} million gradients, norm {1e3 * norm:.1f} ms, step {1e3 * step:.0f} ms, "
        f"{100 * norm / step:.1f} %"
    )


def main() -> None:
    """Print a line for each network."""
    torch.set_num_threads(1)
    for backbone, (options, (num_images, side)) in SIZES.items():
        network = build_model(backbone=backbone, **options)
        print(f"{backbone}: {measure(network, torch.randn(num_images, 3, side, side))}", flush=True)


if __name__ == "__main__":
    main()
