"""The laws of retinanet/network/backbone.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision import models
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from retinanet.network.backbone import (
    BACKBONES,
    NORMS,
    Backbone,
    FoldedBasicBlock,
    FoldedBottleneck,
    FrozenNorm,
    build_backbone,
    convolve,
    group_norm,
)

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


# ---- frozen normalisations, folded into their convolutions ----


def draw_statistics(module: nn.Module, generator: torch.Generator) -> None:
    """Frozen statistics, scales and shifts that are not the identity."""
    for norm in module.modules():
        if isinstance(norm, FrozenNorm):
            norm.running_mean.normal_(std=0.1, generator=generator)
            norm.bias.normal_(std=0.1, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.weight.uniform_(-1, 1, generator=generator)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("blocks", [(FoldedBasicBlock, BasicBlock), (FoldedBottleneck, Bottleneck)])
def test_a_folded_block_is_torchvisions_in_maps_and_gradients(
    generator: torch.Generator, blocks: tuple[type[FoldedBasicBlock | FoldedBottleneck], type[nn.Module]], stride: int
) -> None:
    width = 4 * blocks[0].expansion
    projection = nn.Sequential(nn.Conv2d(width, width, 1, stride, bias=False), FrozenNorm(width))
    arguments = {"stride": stride, "downsample": projection if stride > 1 else None, "norm_layer": FrozenNorm}
    ours, theirs = (copy.deepcopy(block(width, 4, **arguments)).double() for block in blocks)
    draw_statistics(theirs, generator)
    ours.load_state_dict(theirs.state_dict())
    feature = torch.randn(2, width, 9, 6, generator=generator, dtype=torch.float64).requires_grad_()
    found = []
    for block in (ours, theirs):
        result = block(feature)
        inputs = {"feature": feature, **dict(block.named_parameters())}
        found.append([result, *torch.autograd.grad(result.square().sum(), list(inputs.values()))])
    assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_the_weights_of_torchvisions(name: str) -> None:
    with torch.device("meta"):
        reference = models.get_model(name, norm_layer=FrozenBatchNorm2d).state_dict()
    expected = {key: value.shape for key, value in reference.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in build_on_meta(name).state_dict().items()} == expected


def test_a_seed_draws_the_weights_that_torchvision_draws() -> None:
    torch.manual_seed(5)
    reference = resnet18(norm_layer=FrozenBatchNorm2d).state_dict()
    torch.manual_seed(5)
    assert all(torch.equal(value, reference[key]) for key, value in build_backbone("resnet18").state_dict().items())


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_folded_convolution_is_the_convolution_and_its_norm(
    generator: torch.Generator, kernel: int, stride: int, threads: int, groups: int
) -> None:
    convolution = nn.Conv2d(8, 16, kernel, stride, kernel // 2, bias=False, groups=groups)
    norm = FrozenNorm(16)
    draw_statistics(norm, generator)
    feature = torch.randn(2, 8, 15, 18, generator=generator).requires_grad_()
    slope = torch.randn(norm(convolution(feature)).shape, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = [norm(convolution(feature)), convolve(feature, convolution, norm)]
        gradients = [torch.autograd.grad(result, (feature, convolution.weight), slope) for result in results]
    finally:
        torch.set_num_threads(before)
    assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    for folded, plain in zip(gradients[1], gradients[0], strict=True):
        assert_close(folded, plain, rtol=1e-6, atol=1e-6 * float(plain.abs().max()))


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "double", "copied"])
def test_scale_and_shift_follow_every_change_of_the_statistics(generator: torch.Generator, change: str) -> None:
    norm, other = FrozenNorm(16), FrozenNorm(16)
    draw_statistics(norm, generator)
    draw_statistics(other, generator)
    known = norm.scale_and_shift()
    assert norm.scale_and_shift()[0] is known[0]  # computed once
    if change == "in place":
        norm.running_var.mul_(2.0)
    elif change == "loaded":
        norm.load_state_dict(other.state_dict())
    elif change == "replaced":
        norm.bias = other.bias
    elif change == "double":
        norm.double()
    else:
        norm = copy.deepcopy(norm)
        norm.running_mean.add_(1.0)
    scale, shift = norm.scale_and_shift()
    x = torch.randn(2, 16, 3, 3, generator=generator, dtype=norm.weight.dtype)
    assert_close(scale[:, None, None] * x + shift[:, None, None], norm(x), rtol=1e-5, atol=1e-5)


def test_folding_writes_no_map_but_the_convolutions(generator: torch.Generator) -> None:
    convolution, norm = nn.Conv2d(8, 16, 3, bias=False), FrozenNorm(16)
    with torch.autocast("cpu", torch.bfloat16):
        result = convolve(torch.randn(1, 8, 9, 9, generator=generator), convolution, norm)
    assert result.dtype == torch.bfloat16  # and the residual sums stay in it
    assert "Convolution" in type(result.grad_fn).__name__


def test_maps_are_channels_last_where_the_weights_are(generator: torch.Generator) -> None:
    backbone = build_backbone("resnet18").to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64, generator=generator).contiguous(memory_format=torch.channels_last)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in backbone(images))


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
