"""Command replay: recompute a step with a non-finite loss, image by image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import torch

from pipeline.fit.building import build_criterion
from pipeline.params import Params
from pipeline.params.experiment import Transforms
from pipeline.params.paths import resolve
from retinanet.anchors.grid import Grid
from retinanet.data.dataset import Batch, split_batch
from retinanet.inference.detector import build_network
from retinanet.losses.criterion import Criterion
from retinanet.network.model import RetinaNet, clear_padding, memory_format, normalise_images
from retinanet.network.precision import autocast
from retinanet.training.loading import assign_targets

KEYS = {"batch", "weights", "description", "params", "precision", "error"}


def run(url: str) -> None:
    """Print the losses of a saved step, image by image."""
    step = load_step(url)
    print(step["error"])
    broken = [name for name, weight in step["weights"].items() if not bool(weight.isfinite().all())]
    if broken:
        print(f"{len(broken)} weights were not finite before the step: {', '.join(broken[:5])}")
    for row in replay(step):
        print("image {image}  boxes {boxes}  {precision}: class {loss_cls:.6g}, box {loss_box:.6g}".format(**row))


def load_step(url: str) -> dict[str, Any]:
    """Load a step that train has saved.

    Raises:
        ValueError: when there is no such file, or it is another.
    """
    sentence = "the error message of train names the file"
    location = resolve(url, Path.cwd(), name="the file")
    try:
        with fsspec.open(location, "rb") as file:
            content = torch.load(io.BytesIO(file.read()), weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{url} does not exist; {sentence}") from None
    except Exception as error:  # a damaged pickle may raise any error
        raise ValueError(f"{url} cannot be read; {sentence}") from error
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ValueError(f"{url} is not a step saved by train; {sentence}")
    if set(content["batch"]) != set(Batch._fields):
        raise ValueError(f"{url} was saved by another version of this code; check out the commit that trained")
    return content


def replay(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compute the losses of each image alone, at the training's precision and in float32; on the CPU, without TF32."""
    network = build_network(step["description"]).train()
    network.load_state_dict(step["weights"])
    params, description = Params.model_validate(step["params"]), step["description"]
    criterion = build_criterion(params, Grid.from_dict(description["anchors"]), len(description["categories"]))
    rows = []
    for part in split_batch(Batch(**step["batch"]), 1):
        for precision in dict.fromkeys(("fp32" if step["precision"] == "tf32" else step["precision"], "fp32")):
            loss_cls, loss_box = losses_of(network, criterion, part, params.transforms, precision)
            losses = {"loss_cls": loss_cls, "loss_box": loss_box}
            rows.append({"image": part.image_ids[0], "boxes": part.counts[0], "precision": precision, **losses})
    return rows


@torch.no_grad()
def losses_of(
    network: RetinaNet, criterion: Criterion, part: Batch, transforms: Transforms, precision: str
) -> tuple[float, float]:
    """Compute loss_cls and loss_box of one image, normalised by its own foreground anchors."""
    assignment = assign_targets(criterion, part)
    images = normalise_images(part.images, transforms.mean, transforms.std)
    images = clear_padding(images, part.image_sizes.tolist())
    with autocast(torch.device("cpu"), precision):
        predictions = network(images.contiguous(memory_format=memory_format(network)))
    losses = criterion(predictions, assignment, criterion.normaliser_share(assignment))
    return losses["loss_cls"].item(), losses["loss_box"].item()
