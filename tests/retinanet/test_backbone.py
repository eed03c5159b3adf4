"""The laws of retinanet/backbone.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import resnet18

from retinanet.backbone import BACKBONES, NORMS, Backbone, build_backbone, group_norm

THIN, WIDE = [128, 256, 512], [512, 1024, 2048]
CHANNELS = {name: THIN if name in ("resnet18", "resnet34") else WIDE for name in BACKBONES}
STAGES = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]


def build_on_meta(name: str, norm: str = "frozen_batch", frozen_stages: int = 0) -> Backbone:
    """Shapes without numbers: quick for the largest."""
    with torch.device("meta"):
        return build_backbone(name, norm=norm, frozen_stages=frozen_stages)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_c3_to_c5_of_strides_8_16_32(name: str) -> None:
    backbone = build_on_meta(name)
    maps = backbone(torch.zeros(2, 3, 64, 96, device="meta"))
    assert backbone.channels == CHANNELS[name]
    assert [tuple(level.shape) for level in maps] == [
        (2, CHANNELS[name][0], 8, 12),
        (2, CHANNELS[name][1], 4, 6),
        (2, CHANNELS[name][2], 2, 3),
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_every_normalisation_runs_and_is_the_only_one(generator: torch.Generator, norm: str) -> None:
    backbone = build_backbone("resnet18", norm=norm).eval()
    kinds = {type(module) for module in backbone.modules() if "Norm" in type(module).__name__}
    assert kinds == {type(NORMS[norm](16))}
    assert all(level.isfinite().all() for level in backbone(torch.randn(1, 3, 33, 47, generator=generator)))


def test_c3_to_c5_are_those_of_torchvisions_resnet(generator: torch.Generator) -> None:
    reference = resnet18().eval()
    backbone = build_backbone("resnet18", norm="batch").eval()
    backbone.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 64, 64, generator=generator)
    features: list[Tensor] = []
    for layer in (reference.layer2, reference.layer3, reference.layer4):
        layer.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    reference(images)
    for ours, theirs in zip(backbone(images), features, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("frozen_stages", range(6))
def test_frozen_stages_freezes_exactly_those_parameters(frozen_stages: int, norm: str) -> None:
    backbone = build_on_meta("resnet18", norm=norm, frozen_stages=frozen_stages)
    frozen = {module for stage in STAGES[:frozen_stages] for module in stage}
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen), name


def run_in_training(backbone: Backbone, generator: torch.Generator) -> dict[str, bool]:
    """Which entries of the state change by a forward pass in training, by their first name."""
    before = copy.deepcopy(backbone.state_dict())
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64, generator=generator) + 1)
    after = backbone.state_dict()
    changed: dict[str, bool] = {}
    for key, value in before.items():
        module = key.split(".")[0]
        changed[module] = changed.get(module, False) or not torch.equal(value, after[key])
    return changed


def test_frozen_batch_norm_stays_frozen_in_training(generator: torch.Generator) -> None:
    backbone = build_backbone("resnet18", norm="frozen_batch")
    assert not any(run_in_training(backbone, generator).values())
    assert not any("bn" in name for name, _ in backbone.named_parameters())  # scale and shift do not learn either


def test_statistics_of_frozen_stages_do_not_move_in_training(generator: torch.Generator) -> None:
    backbone = copy.deepcopy(build_backbone("resnet18", norm="batch", frozen_stages=2))  # EMA copies the network
    changed = run_in_training(backbone, generator)
    assert {module for module, moved in changed.items() if moved} == {"layer2", "layer3", "layer4"}
    assert not backbone.bn1.training
    assert backbone.layer2.training
    assert not backbone.eval().layer2.training


def test_an_image_alone_gives_what_it_gives_in_a_batch(generator: torch.Generator) -> None:
    images = torch.randn(3, 3, 64, 64, generator=generator)
    for norm in ("frozen_batch", "group"):
        backbone = build_backbone("resnet18", norm=norm).train()
        for batch, alone in zip(backbone(images), backbone(images[1:2]), strict=True):
            assert_close(batch[1:2], alone, rtol=1e-4, atol=1e-4)


def test_groups_hold_eight_channels() -> None:
    assert (group_norm(256).num_groups, group_norm(64).num_groups, group_norm(4).num_groups) == (32, 8, 1)
    assert isinstance(group_norm(8), nn.GroupNorm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet20"}, r"model\.backbone is 'resnet20', expected one of resnet18, "),
        ({"name": "resnet18", "norm": "layer"}, r"model\.norm is 'layer', expected one of frozen_batch, "),
    ],
)
def test_an_unknown_choice_is_refused_by_name(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(**arguments)  # type: ignore[arg-type]
