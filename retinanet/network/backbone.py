"""The backbone: torchvision's ResNet up to C5, with its normalisation and its frozen stages (paper, section 4)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """torchvision's batch normalisation with fixed statistics, whose scale and shift are computed once.

    They are five kernels for each of 53 layers of a ResNet-50, again in every forward pass and under recomputation.
    """

    _known: tuple[tuple[Tensor, ...], list[int], Tensor, Tensor] | None = None

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """[C] each: the normalisation of x is scale * x + shift."""
        if torch.compiler.is_compiling():  # a compiler fuses these, and cannot see the version of a tensor
            return self._compute()
        buffers = (self.weight, self.bias, self.running_mean, self.running_var)
        versions = [buffer._version for buffer in buffers]
        if self._known is None or versions != self._known[1] or any(map(operator.is_not, buffers, self._known[0])):
            with torch.no_grad():
                self._known = (buffers, versions, *self._compute())
        return self._known[2:]

    def _compute(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def convolve(feature: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Convolution and normalisation; a frozen normalisation is folded into the convolution.

    Frozen, it is scale * z + shift of a convolution z = w * x without bias, which is (scale * w) * x + shift: the maps
    are then written once instead of three times. The weight is still trained through the product. Results differ only
    by rounding; in half precision the maps keep their type, as after a BatchNorm that is trained.
    """
    if not isinstance(norm, FrozenNorm):
        result: Tensor = norm(convolution(feature))
        return result
    scale, shift = norm.scale_and_shift()
    weight = convolution.weight * scale[:, None, None, None]
    stride, padding, dilation = convolution.stride, convolution.padding, dilation_of(convolution, feature)
    return F.conv2d(feature, weight, shift, stride, padding, dilation, convolution.groups)


def dilation_of(convolution: nn.Conv2d, feature: Tensor) -> tuple[int, ...]:
    """The dilation of a convolution; for a 1x1 kernel, where it has no effect, the one with the faster CPU kernel.

    With one CPU thread and a batch below 16, torch computes undilated 1x1 convolutions in float32 as a matrix product,
    which is slower than oneDNN's convolution that all others use (ConvParams::use_mkldnn in Convolution.cpp).
    """
    if torch.compiler.is_compiling() or convolution.kernel_size != (1, 1):  # a compiled graph cannot ask for threads
        return convolution.dilation
    is_slow = feature.device.type == "cpu" and feature.dtype == torch.float32 and torch.get_num_threads() == 1
    return (2, 2) if is_slow else convolution.dilation


class FoldedBasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's residual block of two 3x3 convolutions, with frozen normalisations folded in."""

    def forward(self, feature: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape, or to twice the channels and half the size."""
        residual = F.relu_(convolve(feature, self.conv1, self.bn1))
        residual = convolve(residual, self.conv2, self.bn2)
        return F.relu_(residual.add_(shortcut(self, feature)))


class FoldedBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's residual block of 1x1, 3x3 and 1x1 convolutions, with frozen normalisations folded in."""

    def forward(self, feature: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape, or in the first block of a stage to more channels and half the size."""
        residual = F.relu_(convolve(feature, self.conv1, self.bn1))
        residual = F.relu_(convolve(residual, self.conv2, self.bn2))
        residual = convolve(residual, self.conv3, self.bn3)
        return F.relu_(residual.add_(shortcut(self, feature)))


def shortcut(block: FoldedBasicBlock | FoldedBottleneck, feature: Tensor) -> Tensor:
    """The shortcut of a residual block: its input, projected where the shape changes."""
    return feature if block.downsample is None else convolve(feature, *block.downsample)


# Blocks in the stages C2 to C5 (He et al. 2015, table 1), as torchvision's functions of these names.
BACKBONES: dict[str, Callable[..., ResNet]] = {
    "resnet18": partial(ResNet, FoldedBasicBlock, [2, 2, 2, 2]),
    "resnet34": partial(ResNet, FoldedBasicBlock, [3, 4, 6, 3]),
    "resnet50": partial(ResNet, FoldedBottleneck, [3, 4, 6, 3]),
    "resnet101": partial(ResNet, FoldedBottleneck, [3, 4, 23, 3]),
    "resnet152": partial(ResNet, FoldedBottleneck, [3, 8, 36, 3]),
    "resnext50_32x4d": partial(ResNet, FoldedBottleneck, [3, 4, 6, 3], groups=32, width_per_group=4),
}
CHANNELS_PER_GROUP = (
    8  # 32 groups of 256 channels (Wu and He 2018); narrower networks keep the group size, not the number
)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 8 channels per group."""
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen_batch": FrozenNorm,
    "group": group_norm,
    "sync_batch": nn.SyncBatchNorm,
    "batch": nn.BatchNorm2d,
}


class Backbone(nn.Module):
    """The stages of a ResNet; images [N, 3, H, W] to C3, C4, C5 of strides 8, 16, 32 px."""

    def __init__(self, resnet: ResNet, frozen_stages: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        # [C3, C4, C5]
        self.channels = [last_channels(stage) for stage in (self.layer2, self.layer3, self.layer4)]
        stages = [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        self._frozen = [module for stage in stages[:frozen_stages] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """As nn.Module's, but frozen stages stay in evaluation mode, so that their statistics do not change either."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, H, W] to [C3, C4, C5]."""
        c2 = self.layer1(self.maxpool(F.relu_(convolve(images, self.conv1, self.bn1))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


def last_channels(stage: nn.Module) -> int:
    """Output channels of a stage of residual blocks."""
    convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    return max(convolution.out_channels for convolution in convolutions)


def build_backbone(
    name: str, *, norm: str = "frozen_batch", frozen_stages: int = 0, stride_in_1x1: bool = False
) -> Backbone:
    """Build a backbone with random weights (He et al. 2015).

    Args:
        name: a key of BACKBONES.
        norm: a key of NORMS. "batch" normalises over one worker's images, so results depend on the number of workers.
        frozen_stages: 0: none, 1: the stem, 2: also C2, .. 5: all.
        stride_in_1x1: the first block of a stage halves the map in its first 1x1 convolution, as in the original
            ResNet (Caffe), not in its 3x3 convolution.

    Raises:
        ValueError: naming the valid choices.
    """
    if name not in BACKBONES:
        raise ValueError(f"model.backbone is {name!r}, expected one of {', '.join(BACKBONES)}")
    if norm not in NORMS:
        raise ValueError(f"model.norm is {norm!r}, expected one of {', '.join(NORMS)}")
    # torchvision initialises BatchNorm and GroupNorm by class; frozen statistics start as the identity.
    resnet = BACKBONES[name](norm_layer=partial(NORMS[norm]))
    if stride_in_1x1:
        move_stride_to_1x1(resnet)
    return Backbone(resnet, frozen_stages)


def move_stride_to_1x1(resnet: ResNet) -> None:
    """Halve the map of a stage in the first convolution of its first block instead of the second.

    Blocks of two 3x3 convolutions halve it in the first anyway.
    """
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        first = stage[0]
        if isinstance(first, Bottleneck):
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
