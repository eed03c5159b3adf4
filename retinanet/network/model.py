"""The network: backbone, feature pyramid and the two heads (paper, figure 3), independent of targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from retinanet.network.backbone import Backbone, build_backbone, group_norm
from retinanet.network.predictions import Predictions


class FeaturePyramid(nn.Module):
    """P3..P7 from C3..C5 (Lin et al. 2017, arXiv 1612.03144; P6 and P7 as in RetinaNet, section 4, footnote 2).

    No normalisation, and only one ReLU, before P7; MMDetection has none. The top-down map is interpolated to the size
    of the lateral, so any image size works.
    """

    def __init__(self, in_channels: list[int], channels: int, p6_from: str, *, p7_relu: bool = True) -> None:
        super().__init__()
        if p6_from not in ("c5", "p5"):
            raise ValueError(f"model.p6_from is {p6_from!r}, expected c5 or p5")
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.p6_from_c5, self.p7_relu = p6_from == "c5", p7_relu
        self.p6 = nn.Conv2d(in_channels[-1] if self.p6_from_c5 else channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # these convolutions have one

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] to [P3, .. P7], each [N, channels, H, W] of stride 8 .. 128 px."""
        laterals = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, lateral + F.interpolate(merged[0], size=lateral.shape[-2:], mode="nearest"))
        pyramid = [output(feature) for output, feature in zip(self.outputs, merged, strict=True)]
        p6 = halve(self.p6, features[-1] if self.p6_from_c5 else pyramid[-1])
        return [*pyramid, p6, halve(self.p7, F.relu(p6) if self.p7_relu else p6)]


def halve(convolution: nn.Conv2d, feature: Tensor) -> Tensor:
    """A 3x3 convolution of stride 2 and padding 1: [N, C, H, W] to half of H and W, rounded up.

    On a CPU in bfloat16 the gradient of its weights contains uninitialised memory where the map is 1 wide (torch 2.15
    with oneDNN). A column of zeros, equal to the padding, avoids this and changes no result.
    """
    if feature.shape[-1] == 1:
        feature = F.pad(feature, (0, 1))
    result: Tensor = convolution(feature)
    return result


class Head(nn.Module):
    """A head, shared over the levels: (3x3 convolution, norm, ReLU) x depth, then the output convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, *, channels: int, depth: int, norm: str, bias: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers.append(nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1))
            layers += [group_norm(channels)] if norm == "group" else []
            layers.append(nn.ReLU(inplace=True))
        self.tower = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels if depth else in_channels, out_channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # these convolutions have one
        nn.init.constant_(self.output.bias, bias)  # type: ignore[arg-type]

    def forward(self, feature: Tensor) -> Tensor:
        """[N, C, H, W] of one level to [N, out_channels, H, W]."""
        result: Tensor = self.output(self.tower(feature))
        return result


class RetinaNet(nn.Module):
    """RetinaNet: images to the output maps of both heads."""

    def __init__(self, backbone: Backbone, pyramid: FeaturePyramid, class_head: Head, box_head: Head) -> None:
        super().__init__()
        self.backbone, self.pyramid = backbone, pyramid
        self.class_head, self.box_head = class_head, box_head

    def forward(self, images: Tensor) -> Predictions:
        """Predict for a batch.

        Args:
            images: [N, 3, H, W] float, normalised; H and W of any size.

        Returns:
            The maps of both heads on P3..P7.
        """
        pyramid = self.pyramid(self.backbone(images))
        return Predictions([self.class_head(level) for level in pyramid], [self.box_head(level) for level in pyramid])


def build_model(
    *,
    num_logits: int,
    anchors_per_cell: int = 9,
    backbone: str = "resnet50",
    norm: str = "frozen_batch",
    frozen_stages: int = 0,
    stride_in_1x1: bool = False,
    fpn_channels: int = 256,
    p6_from: str = "c5",
    p7_relu: bool = True,
    head_channels: int = 256,
    head_depth: int = 4,
    head_norm: str = "none",
    prior: float = 0.01,
) -> RetinaNet:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        num_logits: per anchor; K for the sigmoid form, K+1 for softmax.
        prior: initial class probability of every anchor (paper, section 3.3).
    """
    body = build_backbone(backbone, norm=norm, frozen_stages=frozen_stages, stride_in_1x1=stride_in_1x1)
    head = partial(Head, fpn_channels, channels=head_channels, depth=head_depth, norm=head_norm)
    return RetinaNet(
        body,
        FeaturePyramid(body.channels, fpn_channels, p6_from, p7_relu=p7_relu),
        class_head=head(anchors_per_cell * num_logits, bias=-math.log((1 - prior) / prior)),
        box_head=head(anchors_per_cell * 4, bias=0.0),
    )


def recompute_activations(network: RetinaNet) -> None:
    """Activation checkpointing of residual blocks and heads: recompute their activations in the backward pass.

    It changes no result and takes about a third more time. It is not for a BatchNorm that is trained, whose statistics
    would be updated twice.
    """
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock | Bottleneck | Head)]
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again  # type: ignore[method-assign]


def normalise_images(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """uint8 [N, 3, H, W] RGB to float32 with zero mean and unit variance, on the images' device, in their layout."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    if not images.is_contiguous(memory_format=torch.channels_last):
        return images.to(torch.float32, copy=True).div_(scale[:, None, None]).sub_(shift[:, None, None])
    # Row by row: broadcasting over the three colours of each pixel takes a CPU four times as long.
    lines, width = images.permute(0, 2, 3, 1).flatten(2), images.shape[3]  # [N, H, W*3]
    normalised = lines.to(torch.float32, copy=True).div_(scale.repeat(width)).sub_(shift.repeat(width))
    result: Tensor = normalised.unflatten(2, (width, 3))
    return result.permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """255 std and mean / std, [3] each, copied to a device once: each copy of a list would wait for it."""
    shift = [value / deviation for value, deviation in zip(mean, std, strict=True)]
    return torch.tensor([255.0 * value for value in std], device=device), torch.tensor(shift, device=device)


def clear_padding(images: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Set the padding of normalised images to zero in place, the padding of the convolutions; return the images.

    Padding with the mean colour is near it, as pixels are whole numbers; at zero it is that of other implementations.

    Args:
        images: [N, 3, H, W].
        sizes: N heights and widths without padding, px.
    """
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, height:] = 0
        image[:, :height, width:] = 0
    return images


def clear_padding_by_mask(images: Tensor, sizes: Tensor) -> Tensor:
    """As clear_padding, with sizes [N, 2] on the device of the images: for CUDA graphs, which cannot read them."""
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None, :]  # [N, H, W]
    return images.masked_fill_(~inside[:, None], 0)


def memory_format(model: nn.Module) -> torch.memory_format:
    """The memory format of a model's weights."""
    weight = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
