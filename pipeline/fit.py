"""The training of one worker: built from plain values, resumed from a checkpoint, reported epoch by epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from pipeline import cluster
from pipeline.inputs import BUILT_IN, check_pictures, fetch
from pipeline.outs import read_json
from pipeline.progress import Throttle
from retinanet.anchors import Grid
from retinanet.coco_eval import ImageDetections, evaluate_detections, pack_detections, unpack_detections
from retinanet.criterion import Criterion
from retinanet.dataset import Batch, EvaluationBatches, Split, TrainingBatches, load_split
from retinanet.detector import Detector, build_network
from retinanet.engine import EpochReport, Learner, train_epochs
from retinanet.optim import construct_ema, construct_optimizer, construct_schedule, scale_lr
from retinanet.transforms import Transforms
from retinanet.weights import load_backbone_weights, save_detector

NOT_EVALUATED = -1.0  # the score of an epoch without AP: below every other


def fit(config: dict[str, Any]) -> None:
    """Train in this worker of Ray Train; all workers run it at once.

    Args:
        config: description (of the detector), params (as in params.yaml), place, data (train and val files and the
            root of the pictures), all plain values.
    """
    train_worker(config, cluster.worker(config), *load_splits(config))


def load_splits(config: Mapping[str, Any]) -> tuple[Split, Split]:
    """The training and the validation split."""
    data = config["data"]
    options = {
        "root": data["root"],
        "cache_folder": data["cache_folder"],
        "keep_decoded": config["place"]["cache_images"],
    }
    check_pictures(data["root"])
    return load_split(fetch(data["train"]), **options), load_split(fetch(data["val"]), **options)


def train_worker(config: Mapping[str, Any], worker: cluster.Worker, train_split: Split, val_split: Split) -> None:
    """One worker's training from the last checkpoint to the end; `config` as of fit."""
    torch.set_num_threads(config["place"]["cpus_per_worker"])
    batches = Batches(config, train_split, worker)
    learner = build_learner(config, worker, total_steps=len(batches.of_epoch(0)) * config["params"]["train"]["epochs"])
    history = resume(learner, worker)
    if history and worker.rank == 0:
        worker.tell({"kind": "resume", "epoch": history[-1]["epoch"]})
    # A killed epoch leaves nothing; its steps are trained again from the end of the one before.
    epochs = config["params"]["train"]["epochs"]
    for epoch_report in train_epochs(learner, batches.loader, first_epoch=len(history), epochs=epochs):
        row = row_of(epoch_report)
        if is_evaluated(epoch_report.epoch, config):
            row |= validate(learner, config, val_split, worker)
        history.append(row)
        write = checkpoint_writer(learner, config, history) if worker.rank == 0 else None
        score = row["AP"] if row.get("AP") is not None else NOT_EVALUATED
        worker.report({"score": score, "history": [without_steps(past) for past in history]}, write)


def seed_all(seed: int) -> None:
    """Seed what draws the initial weights; data and augmentation are drawn from their own seeds."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_learner(config: Mapping[str, Any], worker: cluster.Worker, *, total_steps: int) -> Learner:
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
    )


def distribute(network: nn.Module, worker: cluster.Worker) -> nn.Module:
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


class Batches:
    """This worker's share of the training batches, epoch by epoch, with word of the progress."""

    def __init__(self, config: Mapping[str, Any], split: Split, worker: cluster.Worker) -> None:
        self.config, self.split, self.worker = config, split, worker
        self.transforms = Transforms(**config["params"]["transforms"])
        self.may_tell = Throttle(seconds=1.0)

    def of_epoch(self, epoch: int) -> TrainingBatches:
        """The steps of an epoch (0-based)."""
        return TrainingBatches(
            self.split,
            self.transforms,
            batch_size=self.config["params"]["train"]["batch_size"],
            seed=self.config["params"]["seed"],
            epoch=epoch,
            rank=self.worker.rank,
            num_workers=self.worker.num_workers,
        )

    def loader(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, read ahead by the place's loader processes."""
        batches = self.of_epoch(epoch)
        processes = self.config["place"]["loader_processes"]
        loader = DataLoader(
            batches, batch_size=None, num_workers=processes, pin_memory=self.worker.device.type == "cuda"
        )
        for step, batch in enumerate(loader):
            if self.worker.rank == 0 and self.may_tell():
                self.worker.tell({"kind": "step", "epoch": epoch + 1, "step": step, "steps": len(batches)})
            yield batch


def is_evaluated(epoch: int, config: Mapping[str, Any]) -> bool:
    """Every evaluate_every epochs (1-based), and after the last."""
    train: Mapping[str, int] = config["params"]["train"]
    return epoch % train["evaluate_every"] == 0 or epoch == train["epochs"]


def validate(learner: Learner, config: Mapping[str, Any], split: Split, worker: cluster.Worker) -> dict[str, Any]:
    """AP of the validation split, each worker detecting on its share.

    The post-process has the paper's values, not those of section `postprocess`: training must not depend on what only
    evaluation uses, and AP stays comparable between runs that differ there.

    Returns:
        The 12 COCO numbers, the same in every worker.
    """
    detector = Detector(learner.judged, dict(config["description"]), worker.device)
    batches = EvaluationBatches(split, detector.transforms, rank=worker.rank, num_workers=worker.num_workers)
    mine = {
        image_id: (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy())
        for image_id, d in detector.predict(iter_batches(batches))
    }
    metrics: list[Any] = [None]
    if worker.num_workers == 1:
        show(worker, config, mine)
        return judge(config, mine)
    shares: list[Any] | None = [None] * worker.num_workers if worker.rank == 0 else None
    dist.gather_object(pack_detections(mine), shares)
    if shares is not None:
        everything = {image_id: found for share in shares for image_id, found in unpack_detections(share).items()}
        show(worker, config, everything)
        metrics = [judge(config, everything)]
    dist.broadcast_object_list(metrics)
    result: dict[str, Any] = metrics[0]
    return result


def iter_batches(batches: EvaluationBatches) -> Iterator[Batch]:
    """The batches of a split, one after the other."""
    return (batches[position] for position in range(len(batches)))


def show(worker: cluster.Worker, config: Mapping[str, Any], detections: Mapping[int, ImageDetections]) -> None:
    """Tell the driver what was found on the pictures that it watches: per image boxes, scores, labels."""
    found = {image_id: [field.tolist() for field in detections[image_id]] for image_id in config["data"]["watched"]}
    worker.tell({"kind": "detections", "found": found})


def judge(config: Mapping[str, Any], detections: Mapping[int, Any]) -> dict[str, Any]:
    """The 12 COCO numbers of detections on the validation split."""
    metrics = evaluate_detections(read_json(fetch(config["data"]["val"])), detections).metrics
    return {name: value for name, value in metrics.items() if "." not in name}


def row_of(report: EpochReport) -> dict[str, Any]:
    """A report as one flat row of the history."""
    return {
        "epoch": report.epoch,
        "step": report.step,
        **report.losses,
        "lr": report.lr,
        "images_per_s": report.images_per_s,
        "seconds": report.seconds,
        "step_losses": report.step_losses,
    }


def without_steps(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the losses of its steps, which are many; those stay in the checkpoint."""
    return {key: value for key, value in row.items() if key != "step_losses"}


def checkpoint_writer(learner: Learner, config: Mapping[str, Any], history: list[dict[str, Any]]) -> Any:
    """A function that writes the state of training, and the detector as it is now, into a folder."""
    description = dict(config["description"])
    description["run"] = {**description["run"], "epoch": history[-1]["epoch"], "AP": history[-1].get("AP")}

    def write(folder: Path) -> None:
        torch.save({"learner": learner.state_dict(), "history": history}, folder / "state.pt")
        save_detector(folder / "detector.pt", learner.judged.state_dict(), description)

    return write


def resume(learner: Learner, worker: cluster.Worker) -> list[dict[str, Any]]:
    """Go on from the newest checkpoint of this run: load it, and return the history up to it."""
    with worker.last_checkpoint() as folder:
        if folder is None:
            return []
        state = torch.load(folder / "state.pt", map_location=learner.device, weights_only=True)
    learner.load_state_dict(state["learner"])
    history: list[dict[str, Any]] = state["history"]
    return history
