"""A network that trains in milliseconds, with all that trains it, alone or as one of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from retinanet.anchors.grid import Grid, build_grid
from retinanet.data.dataset import Batch, TrainingBatches
from retinanet.data.splits import Split, load_split
from retinanet.data.transforms import Transforms
from retinanet.losses.criterion import Criterion
from retinanet.network.backbone import group_norm
from retinanet.network.model import FeaturePyramid, Head, RetinaNet
from retinanet.training.engine import train_epochs, train_one_epoch
from retinanet.training.graph import StepGraph
from retinanet.training.optim import construct_ema, construct_optimizer, lr_factor
from retinanet.training.progress import EpochReport, TrainingProgress
from retinanet.training.state import TrainingState

TRANSFORMS = Transforms(short_side=[48, 64], long_side=96, vertical_flip=0.5)
MEAN, STD = list(TRANSFORMS.mean), list(TRANSFORMS.std)
GRID: Grid = build_grid(base_scale=2.0)
CHANNELS = 16
CPU = torch.device("cpu")


class TinyBackbone(nn.Module):
    """Images to C3, C4, C5 of strides 8, 16, 32 px, with one convolution per halving."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 8, 16, 16, 32, 32]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), group_norm(after), nn.ReLU())
            for before, after in pairwise(widths)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features[2:]


def tiny_network(num_classes: int = 3, seed: int = 1) -> RetinaNet:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"channels": CHANNELS, "depth": 1, "norm": "group"}
    return RetinaNet(
        TinyBackbone(),  # type: ignore[arg-type]
        FeaturePyramid([16, 32, 32], CHANNELS, "c5"),
        class_head=Head(CHANNELS, GRID.anchors_per_cell * num_classes, bias=-4.6, **options),
        box_head=Head(CHANNELS, GRID.anchors_per_cell * 4, bias=0.0, **options),
    )


class RecordingCriterion(Criterion):
    """Remembers the normaliser of every part of a batch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.normalisers: list[float] = []

    def __call__(self, predictions: Any, assignment: Any, normaliser: Tensor, **options: Any) -> dict[str, Tensor]:
        losses = super().__call__(predictions, assignment, normaliser, **options)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        self.normalisers.append(normaliser.item())
        return losses


def build_state(
    network: nn.Module | None = None,
    *,
    optim: dict[str, Any] | None = None,
    total_steps: int = 100,
    ramp: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    ema_decay: float | None = None,
    eps: float | None = None,
    **options: Any,
) -> TrainingState:
    """A state of a tiny network; eps is AdamW's, None: its default; options as of TrainingState."""
    network = tiny_network() if network is None else network
    bare = network.module if isinstance(network, DistributedDataParallel) else network
    optimizer = construct_optimizer(bare, **(optim or {}))
    for group in optimizer.param_groups if eps is not None else ():
        group["eps"] = eps
    return TrainingState(
        model=network,
        criterion=RecordingCriterion(GRID, 3, **(loss or {})),
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, partial(lr_factor, total_steps=total_steps, **(ramp or {"schedule": "constant"}))),
        mean=MEAN,
        std=STD,
        device=CPU,
        ema=construct_ema(bare, ema_decay),
        **options,
    )


def train(
    state: TrainingState, split: Split, *, epochs: int, first_epoch: int = 0, **batches: Any
) -> list[EpochReport]:
    """Train on a split; batches as of TrainingBatches."""

    reports = train_epochs(
        state, batches_from(split, **batches), progress=TrainingProgress(epoch=first_epoch), epochs=epochs
    )
    return [report for report in reports if isinstance(report, EpochReport)]


def train_step(state: TrainingState, batch: Batch) -> Tensor:
    """One step; [2] its loss_cls and loss_box."""
    progress = TrainingProgress()
    assert list(train_one_epoch(state, [batch], progress)) == []
    return torch.tensor(progress.losses[0])


def made_up_batch(num_images: int, boxes: list[list[float]], generator: torch.Generator) -> Batch:
    """Noise of 64 x 64 px, the same boxes on every image."""
    sizes = torch.tensor([[64, 64]] * num_images)
    return Batch(
        images=torch.randint(0, 256, (num_images, 3, 64, 64), generator=generator, dtype=torch.uint8),
        boxes=torch.tensor(boxes * num_images).reshape(-1, 4),
        labels=torch.zeros(len(boxes) * num_images, dtype=torch.int64),
        counts=[len(boxes)] * num_images,
        image_sizes=sizes,
        original_sizes=sizes,
        image_ids=list(range(7, 7 + num_images)),
        corners=[(0, 0)] * num_images,
    )


def batches_from(split: Split, **options: Any) -> Callable[[int, int], Iterator[Batch]]:
    """The batches of an epoch from a step on; options as of TrainingBatches."""

    def batches_of(epoch: int, first_step: int) -> Iterator[Batch]:
        batches = TrainingBatches(split, TRANSFORMS, **{"batch_size": 4, "seed": 1, "epoch": epoch, **options})
        return (batches[step] for step in range(first_step, len(batches)))

    return batches_of


def train_as_worker(rank: int, num_workers: int, folder: Path, prepared: Path, options: dict[str, Any]) -> None:
    """One of several processes; writes worker_<rank>.pt with its reports, normalisers and weights."""
    torch.set_num_threads(1)
    init = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=num_workers)
    try:
        network: nn.Module = tiny_network()
        if not options.get("in_graph"):
            network = DistributedDataParallel(network, gradient_as_bucket_view=True, broadcast_buffers=False)
        state = build_state(network, **options["training_state"])
        state.graph = StepGraph(network) if options.get("in_graph") else None
        workers = {"rank": rank, "num_workers": num_workers}
        reports = train(state, load_split(prepared), **options["train"], **workers)
        torch.save(outcome(state, reports), folder / f"worker_{rank}.pt")
    finally:
        dist.destroy_process_group()


def outcome(state: TrainingState, reports: list[EpochReport]) -> dict[str, Any]:
    """What two trainings are compared by."""
    assert isinstance(state.criterion, RecordingCriterion)
    return {
        "step_losses": [loss for report in reports for loss in report.step_losses],
        "losses": [report.losses for report in reports],
        "grad_norms": [(report.grad_norm, report.grad_norm_max) for report in reports],
        "normalisers": state.criterion.normalisers,
        "weights": {key: value.detach().clone() for key, value in state.network.state_dict().items()},
    }
