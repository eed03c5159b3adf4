from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as models
from torch import Tensor

from retinanet.inference.initial import read_initial
from retinanet.network.backbone import Backbone, build_backbone
from retinanet.network.pretrained import load_backbone_state


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    """The state of a classifier of torchvision, with statistics that are not the identity."""
    generator = torch.Generator().manual_seed(3)
    state = models.resnet18(num_classes=2).state_dict()
    return {key: torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for key, v in state.items()}


def load(backbone: Backbone, name: str, content: Any, folder: Path) -> None:
    """Load a file with this content."""
    torch.save(content, folder / f"{name}.pth")
    initial = read_initial(folder / f"{name}.pth", name=f"{name}.pth")
    assert initial.trained is None
    load_backbone_state(backbone, name, initial.state, f"{name}.pth")


def test_a_backbone_takes_all_of_a_torchvision_resnet_but_its_classifier(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    backbone = build_backbone("resnet18")
    load(backbone, "resnet18", resnet_state, tmp_path)
    own = backbone.state_dict()
    assert own.keys() == {key for key in resnet_state if not key.startswith("fc.") and "num_batches" not in key}
    assert all(torch.equal(value, resnet_state[key]) for key, value in own.items())


def test_a_batch_norm_backbone_takes_them_too(tmp_path: Path, resnet_state: dict[str, Tensor]) -> None:
    backbone = build_backbone("resnet18", norm="batch")
    load(backbone, "resnet18", {k: v for k, v in resnet_state.items() if "num_batches" not in k}, tmp_path)
    assert torch.equal(backbone.bn1.running_var, resnet_state["bn1.running_var"])


@pytest.mark.parametrize(
    ("name", "norm", "complaint"),
    [
        ("resnet34", "frozen_batch", r"\d+ entries missing \(first: \['layer1\.2"),
        ("resnet18", "group", r"40 unexpected \(first: \['bn1\.running_mean'\]\)"),  # 20 norms, mean and variance
    ],
)
def test_weights_of_another_backbone_or_norm_are_refused(
    tmp_path: Path, resnet_state: dict[str, Tensor], name: str, norm: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name}\.pth, which does not fit {name}: .*{complaint}.*model\.norm\?"):
        load(build_backbone(name, norm=norm), name, resnet_state, tmp_path)


def test_weights_of_another_shape_are_refused_and_nothing_is_loaded(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    wide = resnet_state | {"layer4.1.conv2.weight": torch.zeros(512, 512, 1, 1)}
    backbone = build_backbone("resnet18")
    before = backbone.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"1 of another shape \(first: \['layer4\.1\.conv2\.weight'\]\)"):
        load(backbone, "resnet18", wide, tmp_path)
    assert torch.equal(backbone.conv1.weight, before)


def test_the_state_dictionary_within_a_checkpoint_is_found(tmp_path: Path, resnet_state: dict[str, Tensor]) -> None:
    backbone = build_backbone("resnet18")
    load(backbone, "resnet18", {"epoch": 3, "state_dict": resnet_state}, tmp_path)
    assert torch.equal(backbone.conv1.weight, resnet_state["conv1.weight"])


def test_a_file_without_a_state_dictionary_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"model\.weights is mine\.pth, .*checkpoint\.pth holds no state dictionary"):
        read_initial(tmp_path / "checkpoint.pth", name="mine.pth")
