"""The peer of bench.whole: torchvision's RetinaNet in a plain loop of one process, as its users write it.

    python -m bench.whole_peer PROJECT EPOCHS [--threads 2]

It trains on data/prepared/train.json and evaluates on val.json with pycocotools, at the sizes, batch, schedule and
augmentation (flips) of PROJECT's params.yaml, with the anchors of its anchors.json; the images are decoded and
resized once, into memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

Item = tuple[Tensor, Tensor, Tensor]
"""Image [3, H, W] uint8, boxes [M, 4] px, labels [M]."""


def main() -> None:
    """Train, evaluate, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("epochs", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    begun = time.monotonic()
    params = yaml.safe_load((options.project / "params.yaml").read_text())
    sizes = params["transforms"]["short_side"], params["transforms"]["long_side"]
    train, val = (
        json.loads((options.project / f"data/prepared/{split}.json").read_text()) for split in ("train", "val")
    )
    torch.manual_seed(params["seed"])
    anchors = json.loads((options.project / "anchors.json").read_text())
    network = build(params, anchors, len(train["categories"]))
    seconds = fit(network, load(train, options.project, sizes), params, options.epochs)
    steps = options.epochs * (len(train["images"]) // params["train"]["batch_size"])
    metrics = evaluate(network, val, load(val, options.project, sizes), sizes)
    result = {"images_per_s": steps * params["train"]["batch_size"] / seconds, **metrics}
    print(json.dumps(result | {"wall_s": time.monotonic() - begun}), flush=True)


def load(content: dict[str, Any], project: Path, sizes: tuple[int, int]) -> list[Item]:
    """All images of a prepared file, resized once."""
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    truths: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            truths[annotation["image_id"]].append(annotation)
    items = []
    for image in content["images"]:
        picture = Image.open(project / content["info"]["root"] / image["file_name"]).convert("RGB")
        factor = factor_of(image, sizes)
        width, height = round(image["width"] * factor), round(image["height"] * factor)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).copy()
        boxes = torch.tensor([truth["bbox"] for truth in truths[image["id"]]]).reshape(-1, 4) * factor
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([label_of[truth["category_id"]] for truth in truths[image["id"]]], dtype=torch.int64)
        items.append((torch.from_numpy(pixels).permute(2, 0, 1), boxes, labels))
    return items


def factor_of(image: dict[str, Any], sizes: tuple[int, int]) -> float:
    """From a picture to the network's frame."""
    sides = image["width"], image["height"]
    return float(min(sizes[0] / min(sides), sizes[1] / max(sides)))


def build(params: dict[str, Any], anchors: dict[str, Any], num_classes: int) -> RetinaNet:
    """ResNet-18 with GroupNorm, and a pyramid as wide as in params.yaml.

    Args:
        anchors: of anchors.json, fitted or not; torchvision places and rounds them in its own way.
    """
    channels = params["model"]["fpn_channels"]
    body = resnet18(weights=None, norm_layer=lambda width: nn.GroupNorm(16, width))
    pyramid = BackboneWithFPN(
        body,
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        channels,
        extra_blocks=LastLevelP6P7(512, channels),
    )
    generator = AnchorGenerator(tuple(map(tuple, anchors["sizes"])), (tuple(anchors["aspect_ratios"]),) * 5)
    short_side, long_side = params["transforms"]["short_side"], params["transforms"]["long_side"]
    network = RetinaNet(pyramid, num_classes, min_size=short_side, max_size=long_side, anchor_generator=generator)
    return network.to(memory_format=torch.channels_last)


def fit(network: RetinaNet, items: list[Item], params: dict[str, Any], epochs: int) -> float:
    """Train; seconds of the loop."""
    size, optim = params["train"]["batch_size"], params["optim"]
    lr = optim["lr"] * size / optim["lr_batch_size"]
    steps = epochs * (len(items) // size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=optim["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    begun = time.monotonic()
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(items)).tolist()
        for start in range(0, len(items) - size + 1, size):
            images, targets = zip(*(augment(items[i]) for i in order[start : start + size]), strict=True)
            losses = network(list(images), list(targets))
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), optim["clip_grad_norm"])
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.4f}  {time.monotonic() - begun:.0f} s", flush=True)
    return time.monotonic() - begun


def augment(item: Item) -> tuple[Tensor, dict[str, Tensor]]:
    """Flip an image with its boxes, each way with probability 1/2."""
    image, boxes, labels = item
    height, width = image.shape[1:]
    pixels, boxes = image.float() / 255, boxes.clone()
    if torch.rand(1) < 0.5:
        pixels, boxes[:, [0, 2]] = pixels.flip(-1), width - boxes[:, [2, 0]]
    if torch.rand(1) < 0.5:
        pixels, boxes[:, [1, 3]] = pixels.flip(-2), height - boxes[:, [3, 1]]
    return pixels, {"boxes": boxes, "labels": labels}


@torch.no_grad()
def evaluate(
    network: RetinaNet, content: dict[str, Any], items: list[Item], sizes: tuple[int, int]
) -> dict[str, float]:
    """AP and AP50 by pycocotools, in the frame of the pictures."""
    network.eval()
    ids = [category["id"] for category in content["categories"]]
    rows = []
    for image, (pixels, _, _) in zip(content["images"], items, strict=True):
        (found,) = network([pixels.float() / 255])
        boxes = found["boxes"] / factor_of(image, sizes)
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True):
            rows.append({"image_id": image["id"], "category_id": ids[label], "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        if not rows:
            return {"AP": 0.0, "AP50": 0.0}
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {"AP": float(judge.stats[0]), "AP50": float(judge.stats[1])}


if __name__ == "__main__":
    main()
