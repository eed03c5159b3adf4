from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision.models as models
from torch import Tensor

from retinanet.network.backbone import BACKBONES, build_backbone
from retinanet.network.pretrained import IMAGENET, load_backbone_weights


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    """The state of a classifier of torchvision, with statistics that are not the identity."""
    generator = torch.Generator().manual_seed(3)
    state = models.resnet18(num_classes=2).state_dict()
    return {key: torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for key, v in state.items()}


def test_a_backbone_takes_all_of_a_torchvision_resnet_but_its_classifier(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    torch.save(resnet_state, tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18")
    load_backbone_weights(backbone, "resnet18", str(tmp_path / "resnet18.pth"))
    own = backbone.state_dict()
    assert own.keys() == {key for key in resnet_state if not key.startswith("fc.") and "num_batches" not in key}
    assert all(torch.equal(value, resnet_state[key]) for key, value in own.items())


def test_a_batch_norm_backbone_takes_them_too(tmp_path: Path, resnet_state: dict[str, Tensor]) -> None:
    torch.save({key: v for key, v in resnet_state.items() if "num_batches" not in key}, tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18", norm="batch")
    load_backbone_weights(backbone, "resnet18", str(tmp_path / "resnet18.pth"))
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
    torch.save(resnet_state, tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=rf"resnet18\.pth' does not fit {name}: .*{complaint}.*another model\.norm\?"):
        load_backbone_weights(build_backbone(name, norm=norm), name, str(tmp_path / "resnet18.pth"))


def test_weights_of_another_shape_are_refused_and_nothing_is_loaded(
    tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    wide = resnet_state | {"layer4.1.conv2.weight": torch.zeros(512, 512, 1, 1)}
    torch.save(wide, tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18")
    before = backbone.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"1 of another shape \(first: \['layer4\.1\.conv2\.weight'\]\)"):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "resnet18.pth"))
    assert torch.equal(backbone.conv1.weight, before)


def test_a_file_without_a_state_dictionary_is_refused(tmp_path: Path, resnet_state: dict[str, Tensor]) -> None:
    for content in (torch.zeros(3), {"epoch": 3, "state_dict": resnet_state}):
        torch.save(content, tmp_path / "checkpoint.pth")
        with pytest.raises(ValueError, match=r"checkpoint\.pth' holds no state dict"):
            load_backbone_weights(build_backbone("resnet18"), "resnet18", str(tmp_path / "checkpoint.pth"))


def test_a_missing_file_of_weights_is_named() -> None:
    with pytest.raises(ValueError, match=r"model\.weights is 'no\.pth': no such file; expected imagenet or a file"):
        load_backbone_weights(build_backbone("resnet18"), "resnet18", "no.pth")


def test_imagenet_asks_torchvision_for_the_first_recipe_of_each_backbone(
    monkeypatch: pytest.MonkeyPatch, resnet_state: dict[str, Tensor]
) -> None:
    asked = []

    def get_state_dict(weights: models.WeightsEnum, *, progress: bool, check_hash: bool) -> dict[str, Tensor]:
        asked.append((weights, check_hash))
        return resnet_state

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    backbone = build_backbone("resnet18")
    load_backbone_weights(backbone, "resnet18", "imagenet")
    assert asked == [(models.ResNet18_Weights.IMAGENET1K_V1, True)]
    assert torch.equal(backbone.conv1.weight, resnet_state["conv1.weight"])
    assert IMAGENET.keys() == BACKBONES.keys()
    assert all(weights.name == "IMAGENET1K_V1" and f"/{name}-" in weights.url for name, weights in IMAGENET.items())


def test_without_a_network_imagenet_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_state_dict(weights: models.WeightsEnum, **options: bool) -> dict[str, Tensor]:
        raise URLError("no route to host")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    with pytest.raises(ValueError, match=r"imagenet: https://.*resnet18-.*\.pth cannot be fetched .*no route to host"):
        load_backbone_weights(build_backbone("resnet18"), "resnet18", "imagenet")
