"""Detectors of other projects: a checkpoint to the weights and the description of a detector here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from retinanet.anchors.grid import build_grid
from retinanet.inference.detector_file import describe_detector
from retinanet.network.checkpoints.coco_classes import COCO_CLASSES, NUM_IDS
from retinanet.network.checkpoints.conversion import ANCHORS_PER_CELL, EPS, Converted, convert
from retinanet.network.checkpoints.files import CheckpointFile, read_checkpoint
from retinanet.network.checkpoints.sources import DETECTRON2, MMDETECTION, TORCHVISION, recognise

STYLES = ("pytorch", "caffe")
EPS_0 = "eeacb38b"
"""First digits of the SHA-256 of torchvision's retinanet_resnet50_fpn with COCO_V1, whose norms add no eps."""
ZOO_NAME = re.compile(r"retinanet_(?:r|x)\d+")
"""Name of a file in MMDetection's model zoo; those of Caffe's style say caffe."""


class Imported(NamedTuple):
    """An imported detector.

    Attributes:
        state: the state dictionary.
        description: as in a detector's file.
        sections: model, transforms, anchors and postprocess as params.yaml says them.
        notes: what was recognised and assumed, one sentence each.
    """

    state: dict[str, Tensor]
    description: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    notes: list[str]


def import_detector(
    path: Path, *, class_names: Sequence[str] | None = None, style: str | None = None, norm_eps: float | None = None
) -> Imported:
    """Read the checkpoint of another project's RetinaNet.

    Args:
        class_names: of the K logits of each anchor; of torchvision's networks also without the background, whose logit
            is then dropped. None: those in the file, or COCO's.
        style: caffe or pytorch, of the ResNet from which it was trained; None: as file and project say.
        norm_eps: what its frozen normalisation adds to the variance; None: 1e-5, and 0 for torchvision's COCO_V1.

    Raises:
        ValueError: when the file is no such checkpoint, or does not decide classes or style.
    """
    file, digest = read_checkpoint(path), digest_of(path)
    try:
        return import_state(
            file, name=path.name, digest=digest, class_names=class_names, style=style, norm_eps=norm_eps
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def import_state(
    file: CheckpointFile,
    *,
    name: str,
    digest: str,
    class_names: Sequence[str] | None = None,
    style: str | None = None,
    norm_eps: float | None = None,
) -> Imported:
    """The same of a file's content.

    Args:
        name: of the file.
        digest: SHA-256 of the file.
    """
    source = recognise(file.state)
    style = find_style(file, name, source.name) if style is None else style
    eps = norm_eps if norm_eps is not None else 0.0 if digest.startswith(EPS_0) else EPS
    converted = convert(file.state, is_caffe=style == "caffe", norm_eps=eps)
    state, categories = choose_classes(converted, class_names or names_in(file))
    sections = converted.sections
    model = {"weights": None, "frozen_stages": 2, "prior": 0.01, **sections["model"]}
    description = describe_detector(
        model=model,
        loss={"class_loss": "sigmoid_focal"},
        transforms=sections["transforms"],
        anchors=build_grid(**sections["anchors"]).to_dict(),
        categories=categories,
        run={"digest": digest[:16], "epoch": 0, "AP": None, "imported": f"{source.name}, {name}"},
    )
    notes = notes_on(converted, style=style, eps=eps, num_classes=len(categories))
    return Imported(state, {**description, "postprocess": sections["postprocess"]}, sections, notes)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_style(file: CheckpointFile, name: str, source: str) -> str:
    """Return caffe or pytorch.

    Detectron2 trains from Caffe's ResNet unless its configuration says otherwise; older files hold its std. For
    MMDetection the configuration in the file decides, else the name of a file of its model zoo.

    Raises:
        ValueError: when it cannot be told.
    """
    if source == DETECTRON2.name:
        std = file.beside.get("pixel_std", file.state.get("pixel_std"))
        return "pytorch" if isinstance(std, Tensor) and float(std.flatten()[0]) > 1 else "caffe"
    if source != MMDETECTION.name:
        return "pytorch"
    meta = file.beside.get("meta")
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    found = re.search(r"style\W+(caffe|pytorch)", " ".join(text for text in texts if isinstance(text, str)))
    if found:
        return found[1]
    if ZOO_NAME.search(name):
        return "caffe" if "caffe" in name else "pytorch"
    raise ValueError(
        "neither the file nor its name says whether its ResNet is of Caffe's or of PyTorch's style; look at `style` of "
        "the backbone in its configuration, and give --style caffe or --style pytorch"
    )


def names_in(file: CheckpointFile) -> list[str] | None:
    """The class names that MMDetection stores beside the weights."""
    meta = file.beside.get("meta")
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (dataset.get("classes") if isinstance(dataset, Mapping) else None)
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if is_list and names else None


def choose_classes(converted: Converted, names: Sequence[str] | None) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Keep the logits that have a class; return the state dictionary and the classes.

    Raises:
        ValueError: when the number of names does not fit.
    """
    num_logits, is_torchvision = converted.num_logits, converted.source is TORCHVISION
    if names is None and is_torchvision and num_logits == NUM_IDS:
        categories = [{"id": number, "name": name} for number, name in COCO_CLASSES.items()]
        return keep_logits(converted, list(COCO_CLASSES)), categories
    if names is None and num_logits == len(COCO_CLASSES):
        return converted.state, [{"id": number, "name": name} for number, name in COCO_CLASSES.items()]
    has_background = is_torchvision and names is not None and len(names) == num_logits - 1
    if names is None or not (has_background or len(names) == num_logits):
        found = "none" if names is None else f"{len(names)} names"
        also = f", or {num_logits - 1} if logit 0 is the background" if is_torchvision else ""
        raise ValueError(
            f"it has {num_logits} logits per anchor, but the classes are {found}; give --classes FILE with "
            f"{num_logits} names, one a line{also}"
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return keep_logits(converted, list(range(num_logits - len(names), num_logits))), categories


def keep_logits(converted: Converted, kept: list[int]) -> dict[str, Tensor]:
    """The state dictionary with these logits of every anchor alone."""
    outputs = {
        name: converted.state[name].unflatten(0, (ANCHORS_PER_CELL, -1))[:, kept].flatten(0, 1)
        for name in ("class_head.output.weight", "class_head.output.bias")
    }
    return {**converted.state, **outputs}


def notes_on(converted: Converted, *, style: str, eps: float, num_classes: int) -> list[str]:
    """What was recognised and assumed."""
    model, source = converted.sections["model"], converted.source
    notes = [
        f"recognised {source.name}: {model['backbone']}, P6 from {model['p6_from'].upper()}, heads of "
        f"{model['head_depth']} convolutions{' with group normalisation' * (model['head_norm'] == 'group')}, "
        f"{converted.num_logits} logits per anchor, {num_classes} classes"
    ]
    if style == "caffe":
        notes.append("Caffe style: BGR is folded into the first convolution, std is one grey level, stride in 1x1")
    if source is TORCHVISION and model["head_norm"] == "none":
        known = "0 (torchvision's COCO_V1)" if eps == 0 else f"{eps:g}"
        notes.append(f"frozen norms add {known} to the variance; trained from COCO_V1, give --norm-eps 0")
    return notes
