"""The network's own time: its convolutions beside torchvision's, and what a step and a detection add to them.

python -m bench.network [--only convolutions] [--write]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchvision.ops import FrozenBatchNorm2d

from bench.peer import build_torchvision, our_name, torchvision_maps
from bench.ratios import Case, run_bench
from retinanet.anchors.grid import Grid, build_grid
from retinanet.data.dataset import Batch
from retinanet.inference.postprocess import Postprocess
from retinanet.inference.predict import predict
from retinanet.losses.criterion import Criterion
from retinanet.network.model import RetinaNet, build_model, memory_format, normalise_images
from retinanet.network.precision import autocast
from retinanet.training.engine import train_one_epoch
from retinanet.training.optim import construct_optimizer, lr_factor
from retinanet.training.progress import TrainingProgress
from retinanet.training.state import TrainingState

NUM_CLASSES = 80  # COCO's
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TRAINED, DETECTED = (2, 3, 512, 512), (1, 3, 800, 1216)
OBJECTS = 8  # per image
CANDIDATES = 1000  # scores above the threshold, of a picture to detect on
CPU = torch.device("cpu")


class Contender(NamedTuple):
    """A network, and how it turns images into the maps of both heads."""

    network: nn.Module
    maps: Callable[[Tensor], list[Tensor]]


def build_ours(backbone: str = "resnet50") -> RetinaNet:
    """The same network in our rooms."""
    return build_model(num_logits=NUM_CLASSES, backbone=backbone, frozen_stages=2, p6_from="p5")


def randomise(network: nn.Module) -> None:
    """Frozen statistics that do something, and weights of such a size that the maps neither vanish nor explode."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
            module.weight.uniform_(0.4, 0.6, generator=generator)
            module.bias.normal_(std=0.1, generator=generator)


def our_maps(network: RetinaNet, images: Tensor) -> list[Tensor]:
    """All maps in one list."""
    return [level for maps in network(images) for level in maps]


def build_contenders(backbone: str = "resnet50") -> tuple[Contender, Contender]:
    """Ours in channels_last, and torchvision's as it comes, with equal weights; they agree, or it is no race."""
    torch.manual_seed(0)
    ours, theirs = build_ours(backbone), build_torchvision(backbone, NUM_CLASSES)
    randomise(theirs)
    ours.load_state_dict({our_name(name): value for name, value in theirs.state_dict().items()})
    ours.to(memory_format=torch.channels_last)
    pair = Contender(ours, partial(our_maps, ours)), Contender(theirs, partial(torchvision_maps, theirs))
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for one, other in zip(*(contender.maps(images) for contender in pair), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    return pair


def convolve(contender: Contender, images: Tensor, precision: str) -> None:
    """Forward pass, and backward from the plain sum of all maps."""
    contender.network.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        maps = contender.maps(images)
    torch.autograd.backward(sum(level.sum() for level in maps))


@torch.no_grad()
def infer(contender: Contender, images: Tensor) -> list[Tensor]:
    """Forward pass alone."""
    return contender.maps(images)


def made_up_batch(shape: tuple[int, int, int, int]) -> Batch:
    """Noise with boxes of all sizes on it."""
    generator = torch.Generator().manual_seed(2)
    count, _, height, width = shape
    sides = torch.tensor([width, height]) * torch.rand(count, OBJECTS, 2, generator=generator).clamp(min=0.05)
    corners = (torch.tensor([width, height]) - sides) * torch.rand(count, OBJECTS, 2, generator=generator)
    sizes = torch.tensor([[height, width]] * count)
    return Batch(
        images=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        boxes=torch.cat([corners, corners + sides], dim=2).flatten(0, 1),
        labels=torch.randint(0, NUM_CLASSES, (count * OBJECTS,), generator=generator),
        counts=[OBJECTS] * count,
        image_sizes=sizes,
        original_sizes=sizes,
        image_ids=list(range(count)),
        corners=[(0, 0)] * count,
    )


def prepare(batch: Batch, network: nn.Module) -> Tensor:
    """The pixels of a batch as a network takes them, in the layout of its weights."""
    return normalise_images(batch.images, MEAN, STD).contiguous(memory_format=memory_format(network))


def train_step(state: TrainingState, batch: Batch) -> None:
    """One optimisation step."""
    for _ in train_one_epoch(state, [batch], TrainingProgress()):
        pass


def build_state(network: RetinaNet, precision: str, device: torch.device = CPU) -> TrainingState:
    """All that a step needs, with the paper's values and a rate so small that a network without training lives."""
    optimizer = construct_optimizer(network, lr=1e-6)
    criterion = Criterion(build_grid(), NUM_CLASSES)
    schedule = LambdaLR(optimizer, partial(lr_factor, total_steps=10**6))
    return TrainingState(network, criterion, optimizer, schedule, MEAN, STD, device, precision)


@torch.no_grad()
def shift_scores(network: RetinaNet, images: Tensor, count: int = CANDIDATES) -> None:
    """Move the class bias until about so many scores of these images lie above the threshold of .05."""
    logits = torch.cat([level.flatten() for level in network(images).class_logits])
    wanted = torch.logit(torch.tensor(0.05))
    network.class_head.output.bias += wanted - logits.topk(count).values[-1]  # type: ignore[operator]


def detect(network: RetinaNet, postprocess: Postprocess, batch: Batch, device: torch.device = CPU) -> int:
    """Pixels to detections; how many."""
    found = predict(network, postprocess, [batch], mean=MEAN, std=STD, device=device)
    return sum(len(detections.scores) for _, _, detections in found)


def cases() -> Iterator[Case]:
    """What is measured, one after the other."""
    ours, theirs = build_contenders()
    assert isinstance(ours.network, RetinaNet)
    images = torch.randn(TRAINED)
    last = images.contiguous(memory_format=torch.channels_last)
    for precision in ("fp32", "bf16"):
        yield Case(
            f"convolutions in {precision}, forward and backward, 2 x 512x512",
            partial(convolve, ours, last, precision),
            {"torchvision in fp32": partial(convolve, theirs, images, "fp32")},
        )
        state, batch = build_state(ours.network, precision), made_up_batch(TRAINED)
        yield Case(
            f"training step in {precision}, 2 x 512x512",
            partial(train_step, state, batch),
            {"its convolutions": partial(convolve, ours, last, precision)},
        )
    batch = made_up_batch(DETECTED)
    images = torch.randn(DETECTED)
    last = images.contiguous(memory_format=torch.channels_last)
    shift_scores(ours.network, last)
    grid: Grid = build_grid()
    yield Case(
        "detection, 1 x 800x1216",
        partial(detect, ours.network, Postprocess(grid, NUM_CLASSES), batch),
        {"its convolutions": partial(infer, ours, last), "torchvision's convolutions": partial(infer, theirs, images)},
    )


if __name__ == "__main__":
    run_bench("The network's own time", cases)
