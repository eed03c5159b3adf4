"""State dictionaries of other projects, for the tests of imports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from retinanet.inference.detector import Detector, build_network
from retinanet.inference.imported import Imported, import_state
from retinanet.network.checkpoints.files import CheckpointFile

GOLDEN = Path(__file__).parent / "golden"
DIGEST = "0123456789abcdef" * 4


def numbered_state(name: str) -> dict[str, Tensor]:
    """The names and shapes of a file in tests/golden; the n-th entry is filled with n."""
    rows = json.loads((GOLDEN / f"{name}_keys.json").read_text())
    return {row[0]: torch.tensor(float(n)).expand(row[1]) for n, row in enumerate(rows)}


def numbered_state_of(make: Callable[..., nn.Module], **options: object) -> dict[str, Tensor]:
    """The same of a network of torchvision."""
    with torch.device("meta"):
        shapes = make(weights=None, weights_backbone=None, **options).state_dict()
    return {name: torch.tensor(float(n)).expand(value.shape) for n, (name, value) in enumerate(shapes.items())}


def take(state: dict[str, Tensor], *, name: str = "model.pth", **options: object) -> Imported:
    """Import a state dictionary."""
    return import_state(CheckpointFile(state, {}), name=name, digest=DIGEST, **options)  # type: ignore[arg-type]


def detector_of(imported: Imported) -> Detector:
    """The detector of an import."""
    network = build_network(imported.description)
    network.load_state_dict(imported.state)
    return Detector(network.eval(), imported.description)


@torch.no_grad()
def draw_weights(model: nn.Module, *, seed: int = 0) -> None:
    """Random weights under which maps keep about their scale, with statistics that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 4:
            value.copy_(noise * (1.4 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            value.copy_(1 + noise.abs() / 10)
        else:
            value.copy_(noise / 10 + name.endswith("weight"))
    for name, value in model.state_dict().items():  # so that a residual block adds a little
        if name.endswith("bn3.weight"):
            value.mul_(0.2)
