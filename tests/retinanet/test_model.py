"""The laws of retinanet/network/model.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from retinanet.anchors.grid import build_grid
from retinanet.network.model import (
    FeaturePyramid,
    Head,
    RetinaNet,
    build_model,
    clear_padding,
    halve,
    normalise_images,
)
from retinanet.network.predictions import permute_to_N_A_K

Golden = Callable[[str], dict[str, Tensor]]
TINY: dict[str, Any] = {
    "num_logits": 3,
    "backbone": "resnet18",
    "fpn_channels": 16,
    "head_channels": 16,
    "head_depth": 1,
}


def build_tiny(**options: Any) -> RetinaNet:
    torch.manual_seed(7)
    return build_model(**{**TINY, **options})


# --- yhenon's network, from the recipe in tests/golden/README.md


def draw_yhenon_state(specification: list[tuple[str, list[int], str]]) -> dict[str, Tensor]:
    """The weights that the golden outputs were made with."""
    rng = np.random.default_rng(1234)
    state = {}
    for name, shape, _ in specification:
        parts = name.split(".")
        if parts[-1] == "num_batches_tracked":
            state[name] = torch.tensor(0)
            continue
        z = rng.standard_normal(shape)
        is_norm = len(parts) > 1 and (parts[-2].startswith("bn") or parts[-2] == "1")
        if len(shape) == 4:
            z = z * np.sqrt(1 / (shape[1] * shape[2] * shape[3]))
        elif parts[-1] == "running_var":
            z = 1 + 0.1 * np.abs(z)
        elif is_norm and parts[-1] == "weight":
            z = 1 + 0.1 * z
        else:
            z = 0.1 * z
        state[name] = torch.from_numpy(z).float()
    state["classificationModel.output.bias"].fill_(-np.log(99))
    return state


YHENON_PYRAMID = {
    "P3_1": "laterals.0",
    "P4_1": "laterals.1",
    "P5_1": "laterals.2",
    "P3_2": "outputs.0",
    "P4_2": "outputs.1",
    "P5_2": "outputs.2",
    "P6": "p6",
    "P7_2": "p7",
}
# In our tower a ReLU follows each convolution: 0, 2, 4, 6.
YHENON_HEAD = {f"conv{i + 1}": f"tower.{2 * i}" for i in range(4)} | {"output": "output"}


def rename_yhenon(name: str) -> str:
    """The name in our network of one of yhenon's parameters."""
    part, _, rest = name.partition(".")
    layer, _, leaf = rest.partition(".")
    if part == "fpn":
        return f"pyramid.{YHENON_PYRAMID[layer]}.{leaf}"
    if part in ("regressionModel", "classificationModel"):
        return f"{'box' if part == 'regressionModel' else 'class'}_head.{YHENON_HEAD[layer]}.{leaf}"
    return f"backbone.{name}"


@pytest.fixture(scope="module")
def yhenon(golden_folder: Path, golden: Golden) -> RetinaNet:
    state = draw_yhenon_state(json.loads((golden_folder / "yhenon_resnet18_state_dict.json").read_text()))
    model = build_model(num_logits=3, backbone="resnet18")
    model.load_state_dict({rename_yhenon(name): value for name, value in state.items()})
    total = sum(value.double().abs().sum() for value in state.values())
    assert_close(total, golden("network")["state_sum_abs"], rtol=1e-9, atol=0.0)  # the recipe was followed
    return model.double().eval()


@pytest.fixture(scope="module")
def yhenon_image(golden: Golden) -> Tensor:
    image = torch.from_numpy(np.random.default_rng(1235).standard_normal((1, 3, 128, 160))).float().double()
    assert_close(image.sum(), golden("network")["image_checksum"][0])
    return image


@torch.no_grad()
def test_network_is_yhenons(golden: Golden, yhenon: RetinaNet, yhenon_image: Tensor) -> None:
    arrays = golden("network")
    predictions = yhenon(yhenon_image)
    rows = arrays["rows"].long()
    probabilities = permute_to_N_A_K(predictions.class_logits, 3)[0].sigmoid()
    deltas = permute_to_N_A_K(predictions.box_deltas, 4)[0]
    assert probabilities.shape == (3852, 3)
    assert_close(probabilities[rows], arrays["classification"].double(), rtol=1e-5, atol=1e-7)
    assert_close(deltas[rows], arrays["regression"].double(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_maps_of_backbone_and_pyramid_are_yhenons(golden: Golden, yhenon: RetinaNet, yhenon_image: Tensor) -> None:
    arrays = golden("network")
    features = yhenon.backbone(yhenon_image)
    names = ["c3", "c4", "c5", "p3", "p4", "p5", "p6", "p7"]
    for name, level in zip(names, [*features, *yhenon.pyramid(features)], strict=True):
        assert list(level.shape) == arrays[f"{name}_shape"].tolist()
        assert_close(torch.stack([level.mean(), level.std()]), arrays[f"{name}_mean_std"], rtol=1e-6, atol=1e-9)


# --- shapes


@settings(max_examples=25)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_maps_of_every_image_size_are_those_of_the_grid(height: int, width: int) -> None:
    # yhenon fails at 100 x 100: it doubles the top-down map instead of fitting it to the lateral's size.
    with torch.device("meta"):
        model = build_model(**TINY)
        predictions = model(torch.zeros(2, 3, height, width))
    sizes = build_grid().map_sizes((height, width))
    assert [tuple(level.shape) for level in predictions.class_logits] == [(2, 27, *size) for size in sizes]
    assert [tuple(level.shape) for level in predictions.box_deltas] == [(2, 36, *size) for size in sizes]


def test_an_odd_image_runs_and_has_gradients_everywhere(generator: torch.Generator) -> None:
    model = build_tiny(norm="group", head_norm="group").train()
    predictions = model(torch.randn(1, 3, 75, 101, generator=generator))
    sum(level.square().sum() for maps in predictions for level in maps).backward()  # type: ignore[union-attr]
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(("p6_from", "width"), [("c5", 512), ("p5", 16)])
def test_p6_comes_from_c5_or_p5(p6_from: str, width: int) -> None:
    assert build_tiny(p6_from=p6_from).pyramid.p6.in_channels == width


def test_levels_of_the_pyramid_worked_by_hand() -> None:
    pyramid = FeaturePyramid([1, 1, 1], 1, "p5")
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):  # every convolution takes the middle pixel
            nn.init.zeros_(module.weight)
            module.weight.data[..., module.weight.shape[-1] // 2, module.weight.shape[-1] // 2] = 1
    # constant maps 1, 10, -100: P5 = -100, P4 = 10 - 100, P3 = 1 - 90, P6 = P5 without ReLU, P7 = ReLU(P6)
    maps = [torch.full((1, 1, side, side), value) for side, value in ((7, 1.0), (4, 10.0), (2, -100.0))]
    levels = pyramid(maps)
    assert [level.unique().tolist() for level in levels] == [[-89], [-90], [-100], [-100], [0]]
    assert [level.shape[-1] for level in levels] == [7, 4, 2, 1, 1]
    pyramid.p7_relu = False  # MMDetection: P7 = P6
    assert pyramid(maps)[-1].unique().tolist() == [-100]


def test_top_down_maps_are_repeated_not_blended() -> None:
    pyramid = FeaturePyramid([1, 1, 1], 1, "p5")
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            module.weight.data[..., module.weight.shape[-1] // 2, module.weight.shape[-1] // 2] = 1
    c5 = torch.tensor([[[[1.0, 2.0]]]])
    p4 = pyramid([torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 2, 4), c5])[1]
    assert p4[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


# --- initial values


def test_heads_start_at_the_prior(generator: torch.Generator) -> None:
    model = build_tiny(norm="group")
    predictions = model.eval()(torch.randn(2, 3, 96, 96, generator=generator))
    probabilities = torch.cat([level.sigmoid().flatten() for level in predictions.class_logits])
    # exactly .01 where the features are 0; the outputs' weights of N(0, .01) move it by little
    assert_close(model.class_head.output.bias.sigmoid(), torch.full((27,), 0.01))
    assert probabilities.mean().item() == pytest.approx(0.01, rel=0.1)
    assert model.box_head.output.bias.abs().max() == 0
    assert build_tiny(prior=0.25).class_head.output.bias.sigmoid()[0].item() == pytest.approx(0.25)


def test_convolutions_of_the_heads_start_small() -> None:
    torch.manual_seed(0)
    head = Head(64, 36, channels=64, depth=2, norm="none", bias=0.0)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert module.bias is not None
            assert module.bias.abs().max() == 0


def test_heads_share_nothing_and_serve_all_levels() -> None:
    model = build_tiny(head_depth=2)
    class_parameters = {id(p) for p in model.class_head.parameters()}
    assert class_parameters.isdisjoint({id(p) for p in model.box_head.parameters()})
    assert len(class_parameters) == 6  # weight and bias of two convolutions and the output, once for five levels


@pytest.mark.parametrize(("depth", "head_norm", "layers"), [(0, "none", 0), (3, "none", 6), (2, "group", 6)])
def test_depth_and_norm_of_the_heads(depth: int, head_norm: str, layers: int) -> None:
    model = build_tiny(head_depth=depth, head_norm=head_norm)
    assert len(model.class_head.tower) == len(model.box_head.tower) == layers
    assert sum(isinstance(m, nn.GroupNorm) for m in model.class_head.modules()) == (2 if head_norm == "group" else 0)


def test_one_seed_gives_one_network() -> None:
    first, second = build_tiny().state_dict(), build_tiny().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- behaviour


@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
@torch.no_grad()
def test_an_image_alone_gives_what_it_gives_in_a_batch(generator: torch.Generator, norm: str) -> None:
    model = build_tiny(norm=norm, head_norm="group").double().eval()
    images = torch.randn(3, 3, 64, 96, generator=generator, dtype=torch.float64)
    together, alone = model(images), model(images[1:2])
    for batch_maps, maps in zip(together, alone, strict=True):
        for batch_level, level in zip(batch_maps, maps, strict=True):
            assert_close(batch_level[1:2], level, rtol=1e-9, atol=1e-9)


def test_frozen_batch_norm_survives_train_mode_of_the_whole_network(generator: torch.Generator) -> None:
    model = build_tiny(norm="frozen_batch", frozen_stages=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()(torch.randn(2, 3, 64, 64, generator=generator))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.backbone.conv1.weight.requires_grad


def test_normalised_pixels_have_zero_mean_and_unit_variance_where_the_statistics_fit() -> None:
    # grey levels 0 and 255 are 0 and 1: (0 - .5) / .25 = -2, (1 - .5) / .25 = 2; second channel (0 - 0) / 1
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2).repeat(1, 3, 1, 1)
    result = normalise_images(images, [0.5, 0.0, 1.0], [0.25, 1.0, 0.5])
    assert_close(result[0, :, 0], torch.tensor([[-2.0, 2.0], [0.0, 1.0], [-2.0, 0.0]]))
    assert images.unique().tolist() == [0, 255]


def test_normalising_leaves_float_images_as_they_are(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 4, 4, generator=generator)
    kept = images.clone()
    normalise_images(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.equal(images, kept)


def test_normalising_gives_the_same_numbers_in_both_layouts(generator: torch.Generator) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 48), generator=generator, dtype=torch.uint8)
    last = images.contiguous(memory_format=torch.channels_last)
    one, other = (normalise_images(each, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for each in (images, last))
    assert torch.equal(one, other)
    assert other.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_gradient_of_the_small_maps_in_bfloat16_is_that_in_float32(generator: torch.Generator, size: Any) -> None:
    convolution = nn.Conv2d(16, 16, 3, stride=2, padding=1)
    feature = torch.randn(8, 16, *size, generator=generator)
    gradients = []
    for enabled in (False, True, True, True):
        torch.full((10_000,), 3e30)  # what memory holds that a kernel forgets to write
        convolution.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            halved = halve(convolution, feature)
        halved.float().square().sum().backward()
        assert convolution.weight.grad is not None
        gradients.append(convolution.weight.grad.clone())
    for gradient in gradients[1:]:
        assert_close(gradient, gradients[0], atol=0.02 * float(gradients[0].abs().max()), rtol=0)


def test_halving_a_map_is_the_convolution(generator: torch.Generator) -> None:
    convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    for size in [(1, 1), (5, 1), (1, 4), (6, 7)]:
        feature = torch.randn(2, 3, *size, generator=generator)
        assert_close(halve(convolution, feature), convolution(feature))


def test_an_unknown_source_of_p6_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.p6_from is 'c6', expected c5 or p5"):
        build_tiny(p6_from="c6")


def test_padding_is_zero_and_the_image_stays(generator: torch.Generator) -> None:
    images = torch.rand(2, 3, 4, 5, generator=generator) + 1
    cleared = clear_padding(images.clone(), [(4, 5), (2, 3)])
    assert torch.equal(cleared[0], images[0])
    assert torch.equal(cleared[1, :, :2, :3], images[1, :, :2, :3])
    assert cleared[1].count_nonzero() == 3 * 2 * 3
