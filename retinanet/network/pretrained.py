"""Pretrained backbone weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from retinanet.network.backbone import Backbone


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
            f"model.weights is {source}, which does not fit {name}: {len(missing)} entries missing "
            f"(first: {missing[:1]}), {len(surplus)} unexpected (first: {surplus[:1]}), {len(shapes)} of another shape "
            f"(first: {shapes[:1]}); is it another backbone, or another model.norm?"
        )
    backbone.load_state_dict({key: value for key, value in kept.items() if key in own}, strict=False)
