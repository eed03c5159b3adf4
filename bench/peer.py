"""The peer of the benches: torchvision's RetinaNet, spared its own resizing, and the names of its weights in ours."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


def build_torchvision(backbone: str, num_classes: int) -> TorchvisionRetinaNet:
    """The network of torchvision, as its pretrained weights have it: frozen BatchNorm; stem and C2 are not trained."""
    pyramid = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return TorchvisionRetinaNet(pyramid, num_classes)


def our_name(name: str) -> str:
    """The name in our network of one of torchvision's weights."""
    for theirs, ours in [
        ("backbone.body.", "backbone."),
        ("backbone.fpn.inner_blocks.", "pyramid.laterals."),
        ("backbone.fpn.layer_blocks.", "pyramid.outputs."),
        ("backbone.fpn.extra_blocks.", "pyramid."),
        ("head.classification_head.cls_logits.", "class_head.output."),
        ("head.regression_head.bbox_reg.", "box_head.output."),
        ("head.classification_head.conv.", "class_head.tower."),
        ("head.regression_head.conv.", "box_head.tower."),
    ]:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    part, layers, rest = name.partition(".tower.")
    if layers:  # torchvision counts convolutions, each with its ReLU; a tower counts both
        number, _, leaf = rest.split(".")
        return f"{part}.tower.{2 * int(number)}.{leaf}"
    if name.startswith(("pyramid.laterals", "pyramid.outputs")):
        return name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if name.count(".") == 4 else name
    return name


def torchvision_maps(network: TorchvisionRetinaNet, images: Tensor) -> list[Tensor]:
    """Backbone, pyramid and the convolutions of both heads, without what the heads do to the maps afterwards."""
    levels = list(network.backbone(images).values())
    head = network.head
    logits = [head.classification_head.cls_logits(head.classification_head.conv(level)) for level in levels]
    return logits + [head.regression_head.bbox_reg(head.regression_head.conv(level)) for level in levels]


def torchvision_losses(
    network: TorchvisionRetinaNet, images: Tensor, targets: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """As in its forward, from the images that its transform would make."""
    features = list(network.backbone(images).values())
    outputs = network.head(features)
    anchors = network.anchor_generator(listed(images), features)
    losses: dict[str, Tensor] = network.compute_loss(targets, outputs, anchors)
    return losses


def listed(images: Tensor) -> ImageList:
    """A batch of images of one size in torchvision's wrapping."""
    return ImageList(images, [(images.shape[2], images.shape[3])] * images.shape[0])


@torch.no_grad()
def torchvision_detect(network: TorchvisionRetinaNet, images: Tensor) -> list[dict[str, Tensor]]:
    """As in its forward, from the images that its transform would make."""
    features = list(network.backbone(images).values())
    outputs = network.head(features)
    wrapped = listed(images)
    anchors = network.anchor_generator(wrapped, features)
    cells = [level.shape[2] * level.shape[3] for level in features]
    per_cell = anchors[0].shape[0] // sum(cells)
    sizes = [count * per_cell for count in cells]
    split = {name: list(value.split(sizes, dim=1)) for name, value in outputs.items()}
    found: list[dict[str, Tensor]] = network.postprocess_detections(
        split, [list(image.split(sizes)) for image in anchors], wrapped.image_sizes
    )
    return found
