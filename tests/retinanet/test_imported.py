"""Laws of imports from Detectron2, MMDetection and yhenon/pytorch-retinanet, and of what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from retinanet.anchors.grid import Grid
from retinanet.data.transforms import Transforms
from retinanet.inference.detector import Detector
from retinanet.inference.imported import Imported, import_state
from retinanet.inference.postprocess import Detections
from retinanet.network.backbone import build_backbone
from retinanet.network.checkpoints.files import CheckpointFile
from retinanet.network.model import normalise_images
from retinanet.network.predictions import Predictions, permute_from_N_A_K, permute_to_N_A_K
from tests.peers_weights import DIGEST, detector_of, numbered_state, take
from tests.retinanet.test_model import draw_yhenon_state

Golden = Callable[[str], dict[str, Tensor]]
MMDET_ZOO = "retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth"
MMDET_CAFFE = "retinanet_r50_caffe_fpn_1x_coco_20200531-f11027c5.pth"


def number_of(imported: Imported, name: str) -> int:
    """The number in an entry of a numbered state, all of whose values are equal."""
    low, high = imported.state[name].aminmax()
    assert low == high
    return int(low)


@cache
def import_peer(peer: str) -> tuple[dict[str, Tensor], Imported]:
    state = numbered_state(f"{peer}_r50")
    return state, take(state, name=MMDET_ZOO)


@pytest.mark.parametrize("peer", ["detectron2", "mmdet"])
def test_every_weight_of_a_peer_has_one_of_ours(peer: str) -> None:
    state, imported = import_peer(peer)
    numbers = {number_of(imported, name) for name in imported.state}
    assert len(numbers) == len(imported.state) == 301
    assert numbers == {int(value.max()) for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("peer", "theirs", "ours"),
    [
        ("detectron2", "backbone.bottom_up.stem.conv1.norm.running_var", "backbone.bn1.running_var"),
        ("detectron2", "backbone.bottom_up.res4.5.conv2.norm.bias", "backbone.layer3.5.bn2.bias"),
        ("detectron2", "backbone.bottom_up.res2.0.shortcut.weight", "backbone.layer1.0.downsample.0.weight"),
        ("detectron2", "backbone.bottom_up.res5.0.shortcut.norm.weight", "backbone.layer4.0.downsample.1.weight"),
        ("detectron2", "backbone.fpn_lateral5.weight", "pyramid.laterals.2.weight"),
        ("detectron2", "backbone.fpn_output3.bias", "pyramid.outputs.0.bias"),
        ("detectron2", "backbone.top_block.p7.weight", "pyramid.p7.weight"),
        ("detectron2", "head.cls_subnet.4.weight", "class_head.tower.4.weight"),
        ("detectron2", "head.bbox_subnet.6.bias", "box_head.tower.6.bias"),
        ("detectron2", "head.cls_score.weight", "class_head.output.weight"),
        ("detectron2", "head.bbox_pred.bias", "box_head.output.bias"),
        ("mmdet", "backbone.layer3.5.bn2.bias", "backbone.layer3.5.bn2.bias"),
        ("mmdet", "neck.lateral_convs.0.conv.weight", "pyramid.laterals.0.weight"),
        ("mmdet", "neck.fpn_convs.2.conv.bias", "pyramid.outputs.2.bias"),
        ("mmdet", "neck.fpn_convs.3.conv.weight", "pyramid.p6.weight"),
        ("mmdet", "neck.fpn_convs.4.conv.bias", "pyramid.p7.bias"),
        ("mmdet", "bbox_head.cls_convs.2.conv.weight", "class_head.tower.4.weight"),
        ("mmdet", "bbox_head.reg_convs.3.conv.bias", "box_head.tower.6.bias"),
        ("mmdet", "bbox_head.retina_cls.bias", "class_head.output.bias"),
        ("mmdet", "bbox_head.retina_reg.weight", "box_head.output.weight"),
    ],
)
def test_weight_goes_to_the_layer_with_its_place(peer: str, theirs: str, ours: str) -> None:
    state, imported = import_peer(peer)
    assert number_of(imported, ours) == int(state[theirs].max())


def test_anchors_of_detectron2_are_ordered_by_ratio() -> None:
    state = numbered_state("detectron2_r50")
    state["head.bbox_pred.bias"] = torch.arange(36.0)
    state["head.cls_score.bias"] = torch.arange(720.0)
    imported = take(state)
    # theirs, size by size: (size 0: ratios 0, 1, 2), ..; ours: (ratio 0: sizes 0, 1, 2), ..; anchor 1 is their 3
    assert imported.state["box_head.output.bias"].view(9, 4)[:, 0].tolist() == [0, 12, 24, 4, 16, 28, 8, 20, 32]
    assert imported.state["class_head.output.bias"].view(9, 80)[1, :2].tolist() == [240, 241]


def test_group_normalisation_of_heads_is_numbered_after_its_convolution() -> None:
    state = numbered_state("mmdet_r50")
    for head in ("cls", "reg"):
        for i in range(4):
            name = f"bbox_head.{head}_convs.{i}"
            del state[f"{name}.conv.bias"]
            state |= {f"{name}.gn.weight": torch.full((256,), 1000.0 + i), f"{name}.gn.bias": torch.zeros(256)}
    imported = take(state, name=MMDET_ZOO)
    assert imported.description["model"]["head_norm"] == "group"
    assert number_of(imported, "box_head.tower.10.weight") == 1003
    assert number_of(imported, "box_head.tower.9.bias") == 0


# --- pre-processing


@pytest.mark.parametrize(("peer", "name"), [("detectron2", "model_final.pkl"), ("mmdet", MMDET_CAFFE)])
def test_caffes_weights_see_bgr_without_division(peer: str, name: str) -> None:
    state = numbered_state(f"{peer}_r50")
    first = "backbone.bottom_up.stem.conv1.weight" if peer == "detectron2" else "backbone.conv1.weight"
    state[first] = torch.zeros(64, 3, 7, 7)
    state[first][:, :, 3, 3] = torch.tensor([1.0, 10.0, 100.0])  # their channels: blue, green, red
    imported = take(state, name=name)
    transforms = Transforms(**imported.description["transforms"])
    pixel = torch.tensor([200, 50, 7], dtype=torch.uint8).view(1, 3, 1, 1)  # red, green, blue
    normalised = normalise_images(pixel, list(transforms.mean), list(transforms.std))
    assert_close(normalised.flatten(), torch.tensor([76.325, -66.28, -96.53]), rtol=1e-5, atol=1e-4)
    # 200 - 123.675 = 76.325, 50 - 116.28, 7 - 103.53; blue * 1 + green * 10 + red * 100 = 6873.17
    sum_of_channels = (imported.state["backbone.conv1.weight"][0, :, 3, 3] * normalised.flatten()).sum()
    assert_close(sum_of_channels.item(), 6873.17, rtol=1e-5, atol=0)
    assert imported.description["model"]["stride_in_1x1"]


def test_pytorchs_weights_see_rgb_divided_by_the_standard_deviation() -> None:
    transforms = Transforms(**import_peer("mmdet")[1].description["transforms"])
    pixel = torch.tensor([200, 50, 7], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = normalise_images(pixel, list(transforms.mean), list(transforms.std))
    # (200 - 123.675) / 58.395 = 1.30705, (50 - 116.28) / 57.12 = -1.16036, (7 - 103.53) / 57.375 = -1.68244
    assert_close(normalised.flatten(), torch.tensor([1.30705, -1.16036, -1.68244]), rtol=0, atol=1e-4)
    assert transforms.resize == "opencv"


@pytest.mark.parametrize(("peer", "has_relu"), [("detectron2", True), ("mmdet", False)])
def test_mmdetection_alone_has_no_relu_before_p7(peer: str, has_relu: bool) -> None:
    assert detector_of(import_peer(peer)[1]).model.pyramid.p7_relu is has_relu


def test_smooths_what_it_shrinks_as_pillow_and_not_as_opencv() -> None:
    # a row of 255, 0, 0, 0 at half its size: Pillow's triangle of 4 px weighs the first three pixels by 3/7, 3/7, 1/7;
    # OpenCV's mean of two neighbours is 127.5
    picture = torch.tensor([255, 0, 0, 0], dtype=torch.uint8).expand(3, 4, 4)
    rows = {}
    for resize in ("pillow", "opencv"):
        transforms = Transforms(short_side=2, resize=resize)
        image, _, _ = transforms.apply(picture, torch.zeros(0, 4), transforms.for_evaluation)
        rows[resize] = image[0, 0].tolist()
    assert rows == {"pillow": [109, 0], "opencv": [128, 0]}


def test_maps_shrink_in_the_1x1_convolution_as_in_caffe(generator: torch.Generator) -> None:
    backbone = build_backbone("resnet50", stride_in_1x1=True).eval()
    stage, x = backbone.layer2, torch.randn(1, 256, 8, 12, generator=generator)
    shrunk = stage(x)
    assert stage[0].conv1.stride == (2, 2)
    # a 1x1 convolution of stride 2 takes every second pixel, and the 3x3 after it has stride 1
    for convolution in (stage[0].conv1, stage[0].downsample[0]):
        convolution.stride = (1, 1)
    assert_close(shrunk, stage(x[:, :, ::2, ::2]))


# --- style of MMDetection's and Detectron2's backbones


@pytest.mark.parametrize(
    ("name", "beside", "style"),
    [
        (MMDET_ZOO, {}, False),
        (MMDET_CAFFE, {}, True),
        ("epoch_12.pth", {"meta": {"cfg": "model = dict(backbone=dict(style='caffe', type='ResNet'))"}}, True),
        ("epoch_12.pth", {"meta": {"config": 'style="pytorch"'}}, False),
    ],
)
def test_style_of_mmdetections_file_is_that_of_its_configuration_or_name(
    name: str, beside: dict[str, Any], style: bool
) -> None:
    file = CheckpointFile(numbered_state("mmdet_r50"), beside)
    assert import_state(file, name=name, digest=DIGEST).description["model"]["stride_in_1x1"] is style


def test_style_that_nothing_tells_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"give --style caffe or --style pytorch"):
        take(numbered_state("mmdet_r50"), name="epoch_12.pth")
    assert not take(numbered_state("mmdet_r50"), name="e.pth", style="pytorch").description["model"]["stride_in_1x1"]


def test_detectron2_with_a_standard_deviation_is_of_pytorchs_style() -> None:
    state = numbered_state("detectron2_r50")
    assert take(state).description["model"]["stride_in_1x1"]
    state["pixel_std"] = torch.tensor([[[58.395]], [[57.12]], [[57.375]]])
    assert not take(state).description["model"]["stride_in_1x1"]


def test_classes_in_mmdetections_file_are_taken() -> None:
    names = [f"class {i}" for i in range(80)]
    for meta in ({"CLASSES": tuple(names)}, {"dataset_meta": {"classes": names}}):
        file = CheckpointFile(numbered_state("mmdet_r50"), {"meta": meta})
        found = import_state(file, name=MMDET_ZOO, digest=DIGEST).description["categories"]
        assert [row["name"] for row in found] == names


# --- yhenon


@pytest.fixture(scope="module")
def yhenons(golden_folder: Path) -> Imported:
    state = draw_yhenon_state(json.loads((golden_folder / "yhenon_resnet18_state_dict.json").read_text()))
    return take(state, class_names=["a", "b", "c"])


@torch.no_grad()
def test_outputs_of_yhenons_network_are_its_own(golden: Golden, yhenons: Imported) -> None:
    arrays, model = golden("network"), detector_of(yhenons).model.double()
    image = torch.from_numpy(np.random.default_rng(1235).standard_normal((1, 3, 128, 160))).float().double()
    predictions, rows = model(image), arrays["rows"].long()
    probabilities = permute_to_N_A_K(predictions.class_logits, 3)[0].sigmoid()
    assert_close(probabilities[rows], arrays["classification"].double(), rtol=1e-5, atol=1e-7)
    deltas = permute_to_N_A_K(predictions.box_deltas, 4)[0]
    assert_close(deltas[rows], arrays["regression"].double(), rtol=1e-5, atol=1e-5)


def postprocess_as(imported: Imported, arrays: dict[str, Tensor]) -> Detections:
    """The detections of the golden maps with the anchors, box code and post-processing of an import."""
    grid, size = Grid.from_dict(imported.description["anchors"]), tuple(arrays["image_hw"].tolist())
    maps = [permute_from_N_A_K(arrays[key][None].float(), grid.map_sizes(size)) for key in ("logits", "deltas")]
    detector = Detector(nn.Identity(), imported.description | {"categories": imported.description["categories"][:3]})
    (found,) = detector.postprocess(Predictions(*maps), torch.tensor([size]), size)
    return found


def test_detections_of_yhenons_maps_are_its_own(golden: Golden, yhenons: Imported) -> None:
    assert_same(postprocess_as(yhenons, golden("postprocess")), golden("postprocess"), "yhenon")


def test_detections_of_mmdetections_maps_are_its_own(golden: Golden) -> None:
    assert_same(postprocess_as(import_peer("mmdet")[1], golden("postprocess")), golden("postprocess"), "mmdet")


def assert_same(found: Detections, arrays: dict[str, Tensor], peer: str) -> None:
    order = arrays[f"{peer}_scores"].argsort(descending=True, stable=True)  # yhenon lists class by class
    assert_close(found.scores, arrays[f"{peer}_scores"][order].float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, arrays[f"{peer}_labels"][order].long())
    assert_close(found.boxes, arrays[f"{peer}_boxes"][order].float(), rtol=1e-4, atol=1e-2)


# --- what is refused


def test_left_over_names_are_listed() -> None:
    state = numbered_state("detectron2_r50") | {"head.centerness.weight": torch.zeros(9)}
    with pytest.raises(ValueError, match=r"1 names are not those of a RetinaNet of Detectron2: head\.centerness"):
        take(state)


@settings(max_examples=10)
@given(st.sampled_from(["detectron2", "mmdet"]), st.randoms(use_true_random=False))
def test_every_name_is_needed(peer: str, random: Random) -> None:
    state = numbered_state(f"{peer}_r50")
    del state[random.choice([name for name in state if not name.endswith("num_batches_tracked")])]
    with pytest.raises(ValueError, match=r"missing|blocks in its stages|known RetinaNet"):
        take(state, name=MMDET_ZOO)


def test_missing_names_and_other_shapes_are_listed() -> None:
    state = numbered_state("mmdet_r50")
    del state["backbone.layer3.5.conv2.weight"]
    state["neck.fpn_convs.1.conv.bias"] = torch.zeros(7)
    message = r"1 missing: backbone\.layer3\.5\.conv2\.weight; 1 of another shape: pyramid\.outputs\.1\.bias \[7\] for"
    with pytest.raises(ValueError, match=message):
        take(state, name=MMDET_ZOO)


@pytest.mark.parametrize("name", ["neck.lateral_convs.2.conv.weight", "bbox_head.retina_reg.weight"])
def test_a_missing_part_is_named(name: str) -> None:
    state = numbered_state("mmdet_r50")
    del state[name]
    with pytest.raises(ValueError, match=r"is missing, or no convolution"):
        take(state, name=MMDET_ZOO)


def test_other_numbers_of_anchors_are_refused() -> None:
    state = numbered_state("mmdet_r50")
    state |= {"bbox_head.retina_reg.weight": torch.zeros(24, 256, 3, 3), "bbox_head.retina_reg.bias": torch.zeros(24)}
    with pytest.raises(ValueError, match=r"the box head has 6 anchors per cell, expected 9"):
        take(state, name=MMDET_ZOO)


def test_another_backbone_is_refused() -> None:
    state = numbered_state("mmdet_r50")
    state = {name: value for name, value in state.items() if "layer3.5" not in name}
    with pytest.raises(ValueError, match=r"has 3, 4, 5, 3 bottleneck blocks in its stages; expected one of resnet18"):
        take(state, name=MMDET_ZOO)


def test_names_of_no_project_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"\(fc\.weight, \.\.\) are those of no known RetinaNet; expected one of torch"
    ):
        take({"fc.weight": torch.zeros(2, 2)})


def test_statistics_that_caffe_folded_are_the_identity() -> None:
    state = {name: value for name, value in numbered_state("detectron2_r50").items() if "running" not in name}
    imported = take(state)
    assert number_of(imported, "backbone.layer1.0.bn1.running_mean") == 0
    assert number_of(imported, "backbone.layer1.0.bn1.running_var") == 1
