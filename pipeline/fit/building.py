"""What trains, built from plain values: the network, its optimiser and its criterion."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.cluster.worker import Worker
from pipeline.runs.inputs import BUILT_IN, fetch
from retinanet.anchors.grid import Grid
from retinanet.inference.detector import build_network
from retinanet.losses.criterion import Criterion
from retinanet.network.model import recompute_activations
from retinanet.network.pretrained import load_backbone_weights
from retinanet.training.learner import Learner
from retinanet.training.optim import construct_ema, construct_optimizer, construct_schedule, scale_lr


def seed_all(seed: int) -> None:
    """Seed what draws the initial weights; data and augmentation are drawn from their own seeds."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_learner(config: Mapping[str, Any], worker: Worker, *, total_steps: int) -> Learner:
    """The model with all that trains it, the same in every worker."""
    params, place, description = config["params"], config["place"], config["description"]
    seed_all(params["seed"])
    network = build_network(description)
    weights = params["model"]["weights"]
    if weights is not None:
        file = weights if weights in BUILT_IN else str(fetch(weights))
        load_backbone_weights(network.backbone, params["model"]["backbone"], file)
    network.to(worker.device)
    if place["channels_last"]:
        network.to(memory_format=torch.channels_last)
    if place["recompute"]:
        recompute_activations(network)
    if place["compile"]:
        network.compile()  # in place: the names of the weights stay
    optim = params["optim"]
    lr = scale_lr(optim["lr"], optim["lr_batch_size"], params["train"]["batch_size"])
    optimizer = construct_optimizer(
        network, optimizer=optim["optimizer"], lr=lr, momentum=optim["momentum"], weight_decay=optim["weight_decay"]
    )
    ramp = ("schedule", "warmup_fraction", "warmup_start", "steps", "step_factor")
    return Learner(
        model=distribute(network, worker),
        criterion=build_criterion(description, params),
        optimizer=optimizer,
        schedule=construct_schedule(optimizer, total_steps, **{key: optim[key] for key in ramp}),
        mean=params["transforms"]["mean"],
        std=params["transforms"]["std"],
        device=worker.device,
        precision=place["precision"],
        clip_grad_norm=optim["clip_grad_norm"],
        images_per_step=place["images_per_step"],
        ema=construct_ema(network, optim["ema_decay"]),
        max_skipped=0 if params["train"]["on_nan"] == "stop" else params["train"]["on_nan"],
    )


def distribute(network: nn.Module, worker: Worker) -> nn.Module:
    """Gradients averaged over the workers; alone, a network needs no wrapping."""
    if worker.num_workers == 1:
        return network
    devices = [worker.device] if worker.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False)


def build_criterion(description: Mapping[str, Any], params: Mapping[str, Any]) -> Criterion:
    """The criterion of sections matcher and loss, with the model's box code."""
    code = {key: params["model"][key] for key in ("box_means", "box_stds")}
    grid = Grid.from_dict(description["anchors"])
    return Criterion(grid, len(description["categories"]), **params["matcher"], **params["loss"], **code)
