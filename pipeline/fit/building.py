"""Build the training state from the sections of params.yaml.

This is the one place where a parameter of the detector becomes an argument: each is passed on by name, so that mypy
checks its type against the section's, and a test that no key of a section is forgotten.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pipeline.cluster.worker import Worker
from pipeline.fit.config import WorkerConfig
from pipeline.params import Params
from pipeline.params.experiment import Optim, Train
from pipeline.params.experiment import Tiles as TilesSection
from pipeline.params.experiment import Transforms as Section
from pipeline.runs.inputs import fetch
from retinanet.anchors.grid import Grid
from retinanet.data.tiles import Tiles
from retinanet.data.transforms import Transforms
from retinanet.inference.initial import load_initial, read_initial
from retinanet.losses.criterion import Criterion
from retinanet.network.model import RetinaNet, build_model, recompute_activations
from retinanet.training.distributed import broadcast_state
from retinanet.training.graph import StepGraph
from retinanet.training.optim import construct_ema, construct_optimizer, lr_factor, scale_lr
from retinanet.training.state import TrainingState


def seed_all(seed: int) -> None:
    """Seed the generators of the initial weights; data and augmentation have seeds of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_state(config: WorkerConfig, worker: Worker, *, total_steps: int) -> TrainingState:
    """Build the training state, the same in every worker."""
    params, runtime = config.params, config.runtime
    grid, num_classes = Grid.from_dict(config.description["anchors"]), len(config.description["categories"])
    seed_all(params.seed)
    network = build_network(params, grid, num_classes)
    loaded = load_weights(network, params, config.description)
    if loaded is not None and worker.rank == 0:
        worker.send_event({"kind": "weights", "text": loaded})
    network.to(worker.device)
    if runtime.channels_last:
        network.to(memory_format=torch.channels_last)
    if runtime.recompute:
        recompute_activations(network)
    optimizer = build_optimizer(network, params.optim, params.train)
    model = share_weights(network) if runtime.cuda_graphs else distribute(network, worker)
    if runtime.compile:
        # In place, so that the names of the weights stay; with its DistributedDataParallel, at whose buckets it is cut.
        model.compile()
    return TrainingState(
        model=model,
        criterion=build_criterion(params, grid, num_classes),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, params.optim, total_steps),
        mean=params.transforms.mean,
        std=params.transforms.std,
        device=worker.device,
        precision=runtime.precision,
        clip_grad_norm=params.optim.clip_grad_norm,
        images_per_step=runtime.images_per_step,
        ema=construct_ema(network, params.optim.ema_decay),
        max_skipped=0 if params.train.on_nan == "stop" else params.train.on_nan,
        graph=StepGraph(network) if runtime.cuda_graphs else None,
    )


def build_network(params: Params, grid: Grid, num_classes: int) -> RetinaNet:
    """Build the network of section model with random weights."""
    model = params.model
    return build_model(
        num_logits=num_classes + (params.loss.class_loss == "softmax_focal"),
        anchors_per_cell=grid.anchors_per_cell,
        backbone=model.backbone,
        norm=model.norm,
        frozen_stages=model.frozen_stages,
        stride_in_1x1=model.stride_in_1x1,
        fpn_channels=model.fpn_channels,
        p6_from=model.p6_from,
        p7_relu=model.p7_relu,
        head_channels=model.head_channels,
        head_depth=model.head_depth,
        head_norm=model.head_norm,
        prior=model.prior,
    )


def load_weights(network: RetinaNet, params: Params, description: dict[str, Any]) -> str | None:
    """Load model.weights, which the driver has made a file: of a detector, or of a ResNet for the backbone.

    Args:
        description: of the detector to be trained; its model.weights is what the user wrote.

    Returns:
        What was loaded, for the user; None without weights.
    """
    location = params.model.weights
    if location is None:
        return None
    name = description["model"]["weights"]
    return load_initial(network, read_initial(fetch(location), name=name), own=description, name=name)


def build_optimizer(network: nn.Module, optim: Optim, train: Train) -> torch.optim.Optimizer:
    """Build the optimiser of section optim, its learning rate scaled to the global batch."""
    return construct_optimizer(
        network,
        optimizer=optim.optimizer,
        lr=scale_lr(optim.lr, optim.lr_batch_size, train.batch_size),
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        backbone_lr_factor=optim.backbone_lr_factor,
    )


def build_schedule(optimizer: torch.optim.Optimizer, optim: Optim, total_steps: int) -> LRScheduler:
    """Build the learning rate schedule of section optim."""
    factor = partial(
        lr_factor,
        total_steps=total_steps,
        schedule=optim.schedule,
        warmup_fraction=optim.warmup_fraction,
        warmup_start=optim.warmup_start,
        steps=optim.steps,
        step_factor=optim.step_factor,
    )
    return LambdaLR(optimizer, factor)


def build_criterion(params: Params, grid: Grid, num_classes: int) -> Criterion:
    """Build the criterion of sections matcher and loss, with the box code of section model."""
    matcher, loss, model = params.matcher, params.loss, params.model
    return Criterion(
        grid,
        num_classes,
        foreground_iou=matcher.foreground_iou,
        background_iou=matcher.background_iou,
        low_quality=matcher.low_quality,
        class_loss=loss.class_loss,
        alpha=loss.alpha,
        gamma=loss.gamma,
        box_loss=loss.box_loss,
        beta=loss.beta,
        box_weight=loss.box_weight,
        normaliser=loss.normaliser,
        box_means=model.box_means,
        box_stds=model.box_stds,
    )


def build_transforms(section: Section) -> Transforms:
    """Build the transforms of section transforms."""
    return Transforms(
        short_side=section.short_side,
        long_side=section.long_side,
        resize=section.resize,
        size_divisor=section.size_divisor,
        canvas=section.canvas,
        mean=section.mean,
        std=section.std,
        horizontal_flip=section.horizontal_flip,
        vertical_flip=section.vertical_flip,
        random_crop=section.random_crop,
        scale_jitter=section.scale_jitter,
        min_visible=section.min_visible,
        scaled_decoding=section.scaled_decoding,
        tiles=None if section.tiles is None else build_tiles(section.tiles),
        brightness=section.brightness,
        contrast=section.contrast,
        saturation=section.saturation,
        hue=section.hue,
    )


def build_tiles(section: TilesSection) -> Tiles:
    """Build the tiles of section transforms.tiles."""
    return Tiles(size=section.size, overlap=section.overlap, min_visible=section.min_visible)


def distribute(network: nn.Module, worker: Worker) -> nn.Module:
    """Wrap the network in DistributedDataParallel, unless there is one worker."""
    if worker.num_workers == 1:
        return network
    devices = [worker.device] if worker.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False)


def share_weights(network: nn.Module) -> nn.Module:
    """Give all workers the weights of the first; the step sums the gradients itself, after its CUDA graph."""
    broadcast_state(network)
    return network
