"""Transfer learning: start from the weights of a trained detector, its classes by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from retinanet.network.model import RetinaNet
from retinanet.network.pretrained import load_backbone_state

ARCHITECTURE: dict[str, Any] = {
    "backbone": None,
    "stride_in_1x1": False,
    "fpn_channels": None,
    "p6_from": None,
    "p7_relu": True,
    "head_channels": None,
    "head_depth": None,
    "head_norm": None,
}
"""Settings of section model that the weights decide, and what an older file without one means."""
PARTS = ("pyramid.laterals", "pyramid.outputs", "pyramid.p6", "pyramid.p7", "class_head.tower", "box_head.tower")
"""Parts that are the same network under the same settings."""

# What the weights were trained for, and what another training may change.
SETTINGS = {
    "model": ("box_means", "box_stds"),
    "transforms": ("mean", "std"),
    "anchors": ("sizes", "aspect_ratios", "offset", "rounded", "strides_from_image"),
}


class Classes(NamedTuple):
    """The classes of a detector, and the form of its class loss, which decides whether the background has a logit."""

    names: list[str]
    class_loss: str

    @property
    def num_backgrounds(self) -> int:
        """Logits of an anchor before that of the first class."""
        return int(self.class_loss == "softmax_focal")


def transfer_weights(
    network: RetinaNet, state: Mapping[str, Tensor], *, trained: Mapping[str, Any], own: Mapping[str, Any]
) -> str:
    """Load a detector's weights, and logits where the class has the same name.

    The box output stays fresh if the number of anchors per cell differs, as do then all logits.

    Args:
        state: of the detector's network.
        trained, own: descriptions of the detector, and of the one to be trained.

    Returns:
        A sentence: what was loaded, what starts fresh, and which settings differ.

    Raises:
        ValueError: when the networks differ, see check_settings.
    """
    check_settings(own["model"], trained["model"], name="a detector's file")
    backbone = {name.removeprefix("backbone."): state[name] for name in state if name.startswith("backbone.")}
    load_backbone_state(network.backbone, own["model"]["backbone"], backbone, "a detector")
    for part in PARTS:
        load_part(network, state, part)
    same_cells = fits(network, state, "box_head.output")
    if same_cells:
        load_part(network, state, "box_head.output")
    classes, others = classes_of(own), classes_of(trained)
    known = 0
    if same_cells and classes.class_loss == others.class_loss:
        known = load_classes(network, state, classes, others)
    sentence = "loaded backbone, pyramid and heads"
    sentence += "" if same_cells else " without box_head.output, which has other anchors per cell"
    sentence += f"; {known} of {len(classes.names)} classes have its logits by name"
    sentence += ", the others start fresh" if known < len(classes.names) else ""
    differ = differences(own, trained)
    return f"{sentence}; it was trained with other {', '.join(differ)}" if differ else sentence


def check_settings(own: Mapping[str, Any], trained: Mapping[str, Any], *, name: str) -> None:
    """Check that two networks differ at most in their outputs.

    Args:
        own, trained: section `model` of the network to be trained, and of the detector.
        name: of the weights, for the message.

    Raises:
        ValueError: naming each setting that the weights need.
    """
    needed = {
        key: trained[key]
        for key, default in ARCHITECTURE.items()
        if key in trained and own.get(key, default) != trained[key]
    }
    if (own["norm"] == "group") != (trained["norm"] == "group"):  # a batch normalisation may be frozen or trained
        needed["norm"] = trained["norm"]
    if needed:
        listed = ", ".join(f"{key}: {as_yaml(value)} (now {as_yaml(own.get(key))})" for key, value in needed.items())
        raise ValueError(f"model.weights is {name}, a network with other settings; set in section model: {listed}")


def as_yaml(value: Any) -> str:
    """A plain value as params.yaml has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def classes_of(description: Mapping[str, Any]) -> Classes:
    """The classes of a description."""
    return Classes([row["name"] for row in description["categories"]], description["loss"]["class_loss"])


def entries(network: RetinaNet, part: str) -> dict[str, Tensor]:
    """The entries of a part of the network."""
    return {name: value for name, value in network.state_dict().items() if name.startswith(f"{part}.")}


def fits(network: RetinaNet, state: Mapping[str, Tensor], part: str) -> bool:
    """Whether names and shapes of a part agree."""
    own = {name: value.shape for name, value in entries(network, part).items()}
    return own == {name: value.shape for name, value in state.items() if name.startswith(f"{part}.")}


def load_part(network: RetinaNet, state: Mapping[str, Tensor], part: str) -> None:
    """Load a part whose names and shapes agree."""
    for name, value in entries(network, part).items():
        value.copy_(state[name])


def load_classes(network: RetinaNet, state: Mapping[str, Tensor], own: Classes, trained: Classes) -> int:
    """Load the logits of the classes that have the same name, and of the background; return how many classes do."""
    pairs = [(i, trained.names.index(name)) for i, name in enumerate(own.names) if name in trained.names]
    first = own.num_backgrounds
    rows = [(i, i) for i in range(first)] + [(i + first, j + first) for i, j in pairs]
    for name, value in entries(network, "class_head.output").items():
        theirs = by_class(state[name], trained)
        by_class(value, own)[:, [i for i, _ in rows]] = theirs[:, [j for _, j in rows]].to(value)
    return len(pairs)


def by_class(output: Tensor, classes: Classes) -> Tensor:
    """Weight or bias of the class output as [C, K, ..], a view."""
    view: Tensor = output.unflatten(0, (-1, len(classes.names) + classes.num_backgrounds))
    return view


def differences(own: Mapping[str, Any], trained: Mapping[str, Any]) -> Sequence[str]:
    """Dotted keys of SETTINGS in which two descriptions differ; an older file may lack one."""
    return [
        f"{section}.{key}"
        for section, keys in SETTINGS.items()
        for key in keys
        if key in trained[section] and own[section].get(key) != trained[section][key]
    ]
