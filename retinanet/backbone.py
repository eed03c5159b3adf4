"""The backbone: a ResNet of torchvision up to C5, with its normalisation and its frozen stages (paper, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torchvision.models as models
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

BACKBONES: dict[str, Callable[..., models.ResNet]] = {
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
    "resnet152": models.resnet152,
    "resnext50_32x4d": models.resnext50_32x4d,
}
CHANNELS_PER_GROUP = 8  # 32 groups of 256 channels (Wu and He 2018); thin networks keep the group, not the count


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation whose groups hold 8 channels."""
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen_batch": FrozenBatchNorm2d,
    "group": group_norm,
    "sync_batch": nn.SyncBatchNorm,
    "batch": nn.BatchNorm2d,
}


class Backbone(nn.Module):
    """The stages of a ResNet; images [N, 3, H, W] to C3, C4, C5 of strides 8, 16, 32 px."""

    def __init__(self, resnet: models.ResNet, frozen_stages: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        # [C3, C4, C5]: the last block of a stage tells its width
        self.channels = [last_channels(stage) for stage in (self.layer2, self.layer3, self.layer4)]
        stages = [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        self._frozen = [module for stage in stages[:frozen_stages] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """As nn.Module's, but what is frozen stays as it is: its statistics do not move either."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, H, W] to [C3, C4, C5]."""
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]


def last_channels(stage: nn.Module) -> int:
    """Output channels of a stage of residual blocks."""
    convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    return max(convolution.out_channels for convolution in convolutions)


def build_backbone(name: str, *, norm: str = "frozen_batch", frozen_stages: int = 0) -> Backbone:
    """A backbone with fresh weights (He et al. 2015).

    Args:
        name: a key of BACKBONES.
        norm: a key of NORMS. "batch" sees one worker's images only: results then depend on the number of workers.
        frozen_stages: 0 none, 1 the stem, 2 and C2, .. 5 all.

    Raises:
        ValueError: naming the valid choices.
    """
    if name not in BACKBONES:
        raise ValueError(f"model.backbone is {name!r}, expected one of {', '.join(BACKBONES)}")
    if norm not in NORMS:
        raise ValueError(f"model.norm is {norm!r}, expected one of {', '.join(NORMS)}")
    # torchvision's initialisation asks for BatchNorm or GroupNorm by class; frozen statistics start as the identity.
    resnet = BACKBONES[name](weights=None, norm_layer=partial(NORMS[norm]))
    return Backbone(resnet, frozen_stages)
