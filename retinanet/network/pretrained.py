"""Pretrained backbone weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torchvision.models as models
from torch import Tensor

from retinanet.network.backbone import Backbone
from retinanet.network.weights_file import load_plain

# The first version of each, for which the paper's learning rate was tuned.
IMAGENET = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": models.ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": models.ResNet101_Weights.IMAGENET1K_V1,
    "resnet152": models.ResNet152_Weights.IMAGENET1K_V1,
    "resnext50_32x4d": models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1,
}


def load_backbone_weights(backbone: Backbone, name: str, weights: str) -> None:
    """Load pretrained weights into a backbone.

    Args:
        name: of the backbone.
        weights: "imagenet" for torchvision's (from its cache, downloaded once), else a file that holds a state
            dictionary of torchvision's ResNet; its fc layer is ignored.

    Raises:
        ValueError: when the file does not exist or holds another network's weights.
    """
    state = fetch_imagenet_weights(name) if weights == "imagenet" else read_backbone_weights(weights)
    load_backbone_state(backbone, name, state, repr(weights))


def load_backbone_state(backbone: Backbone, name: str, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dictionary of torchvision's ResNet into a backbone; an fc layer is ignored.

    Args:
        source: of the weights, for a message.

    Raises:
        ValueError: when it is another network's; the backbone then stays as it is.
    """
    own = backbone.state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
    surplus = [key for key in kept if key not in own and not key.endswith("num_batches_tracked")]
    missing = [key for key in own if key not in kept and not key.endswith("num_batches_tracked")]
    shapes = [key for key, value in kept.items() if key in own and value.shape != own[key].shape]
    if surplus or missing or shapes:
        raise ValueError(
            f"model.weights {source} does not fit {name}: {len(missing)} entries missing (first: {missing[:1]}), "
            f"{len(surplus)} unexpected (first: {surplus[:1]}), {len(shapes)} of another shape (first: {shapes[:1]}); "
            "is it another backbone, or another model.norm?"
        )
    backbone.load_state_dict({key: value for key, value in kept.items() if key in own}, strict=False)


def fetch_imagenet_weights(name: str) -> Mapping[str, Tensor]:
    """The weights of torchvision, from torch's cache on this machine or, the first time, from the network."""
    try:
        state: Mapping[str, Tensor] = IMAGENET[name].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"model.weights is imagenet: {IMAGENET[name].url} cannot be fetched ({error}); "
            "fetch it elsewhere and set model.weights to the file"
        ) from error
    return state


def read_backbone_weights(path: str) -> Mapping[str, Tensor]:
    """The state dictionary in a file."""
    if not Path(path).is_file():
        raise ValueError(
            f"model.weights is {path!r}: no such file; expected imagenet or a file with a ResNet's weights"
        )
    state = load_plain(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.weights {path!r} holds no state dict; expected names with tensors, as of a ResNet")
    return state
