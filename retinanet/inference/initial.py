"""Initial weights of a training: a detector's file, another project's RetinaNet, or a ResNet for the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from retinanet.inference.detector_file import demand_detector, is_detector
from retinanet.inference.imported import digest_of, import_state
from retinanet.network.checkpoints.files import find_state, read_content
from retinanet.network.checkpoints.sources import SOURCES
from retinanet.network.model import RetinaNet
from retinanet.network.pretrained import load_backbone_state
from retinanet.network.transfer import check_settings, transfer_weights


class Initial(NamedTuple):
    """Initial weights.

    Attributes:
        state: a state dictionary, of our names for a detector, else of torchvision's ResNet.
        trained: description of the detector, None for a ResNet.
        notes: what was recognised of another project's.
    """

    state: Mapping[str, Tensor]
    trained: Mapping[str, Any] | None
    notes: list[str]


def read_initial(path: Path, *, name: str) -> Initial:
    """Read a file of initial weights.

    Args:
        name: what model.weights says, whose last part is the name of the file elsewhere.

    Raises:
        ValueError: when the file holds no weights, or classes and style of a RetinaNet cannot be told.
    """
    try:
        content = read_content(path)
        if is_detector(content):
            detector = demand_detector(content, path)
            return Initial(detector["weights"], detector["description"], [])
        file = find_state(content, path)
        if not any(entry.startswith(source.mark) for source in SOURCES for entry in file.state):
            return Initial(file.state, None, [])
        imported = import_state(file, name=name.rpartition("/")[2], digest=digest_of(path))
    except ValueError as error:
        hint = "; python -m pipeline.import_weights takes these options" if " give --" in str(error) else ""
        raise ValueError(f"model.weights is {name}, which cannot be used: {error}{hint}") from error
    return Initial(imported.state, imported.description, imported.notes)


def check_initial(initial: Initial, *, own: Mapping[str, Any], name: str) -> None:
    """Check that a network can take the weights of a detector.

    Args:
        own: section `model` of the network.

    Raises:
        ValueError: naming the settings of section model that the weights need.
    """
    if initial.trained is not None:
        check_settings(own, initial.trained["model"], name=name)


def load_initial(network: RetinaNet, initial: Initial, *, own: Mapping[str, Any], name: str) -> str:
    """Load initial weights into a network.

    Args:
        own: description of the detector to be trained.

    Returns:
        A sentence: what was loaded, and what starts fresh.

    Raises:
        ValueError: when they do not fit.
    """
    if initial.trained is None:
        load_backbone_state(network.backbone, own["model"]["backbone"], initial.state, name)
        return f"model.weights {name}: loaded the backbone"
    check_initial(initial, own=own["model"], name=name)
    told = transfer_weights(network, initial.state, trained=initial.trained, own=own)
    return "; ".join([f"model.weights {name}: {told}", *initial.notes])
