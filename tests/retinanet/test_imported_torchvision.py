"""Laws of imports from torchvision: the same picture gives the same detections."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import (
    RetinaNet_ResNet50_FPN_Weights,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.misc import FrozenBatchNorm2d as PeersNorm

from retinanet.data.transforms import Transforms
from retinanet.inference.detector import Detector
from retinanet.network.backbone import FrozenNorm
from retinanet.network.checkpoints.coco_classes import COCO_CLASSES
from retinanet.network.checkpoints.conversion import fold_norms
from retinanet.network.model import normalise_images
from tests.peers_weights import DIGEST, detector_of, draw_weights, numbered_state_of, take

SIDE, LONG = 96, 160
NAMES = ["void", "a", "b", "c"]


@pytest.fixture(scope="module", params=[retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2], ids=["v1", "v2"])
def peer(request: pytest.FixtureRequest) -> nn.Module:
    """torchvision's detector with random weights that finds something everywhere: its logits vary around -1."""
    model: nn.Module = request.param(
        weights=None, weights_backbone=None, num_classes=4, min_size=SIDE, max_size=LONG
    ).eval()
    draw_weights(model)
    outputs = model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg
    image = torch.randn(1, 3, SIDE, LONG, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = model.head(list(model.backbone(image).values()))
        for output, values, bias in zip(outputs, maps.values(), (-1.0, 0.0), strict=True):
            output.weight.mul_(0.7 / values.std())
            output.bias.fill_(bias)
    return model


@pytest.fixture(scope="module")
def detector(peer: nn.Module) -> Detector:
    imported = take(peer.state_dict(), class_names=NAMES)
    imported.description["transforms"] |= {"short_side": SIDE, "long_side": LONG}
    return detector_of(imported)


@pytest.mark.parametrize("size", [(96, 128), (120, 96), (96, 150)], ids=str)  # not resized; two are padded
@torch.no_grad()
def test_detections_are_torchvisions(
    peer: nn.Module, detector: Detector, size: tuple[int, int], generator: torch.Generator
) -> None:
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    (theirs,) = peer([picture / 255])
    (found,) = detector([picture.permute(1, 2, 0).numpy()])
    assert len(found.scores) == 300
    assert_close(found.scores, theirs["scores"], rtol=0, atol=1e-5)
    # Each is one of theirs, in whatever order nearly equal scores have; the last may be cut differently.
    near = (found.boxes[:, None] - theirs["boxes"]).abs().amax(dim=2) < 0.01
    equal = (found.scores[:, None] - theirs["scores"]).abs() < 1e-5
    matched = (near & equal & (found.labels[:, None] == theirs["labels"])).any(dim=1)
    assert matched[found.scores > found.scores[-1] + 1e-5].all()


@pytest.mark.parametrize("size", [(300, 200), (64, 50), (120, 161), (75, 333)], ids=str)
def test_resized_picture_is_torchvisions_up_to_a_grey_level(size: tuple[int, int], generator: torch.Generator) -> None:
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    transforms = Transforms(SIDE, LONG, resize="torchvision")
    mean, std = list(transforms.mean), list(transforms.std)
    theirs, _ = GeneralizedRCNNTransform(SIDE, LONG, mean, std)([picture / 255])
    resized, _, _ = transforms.apply(picture, torch.zeros(0, 4), transforms.for_evaluation)
    height, width = resized.shape[1:]
    assert theirs.image_sizes == [(height, width)]
    own = normalise_images(resized[None], mean, std)[0]
    assert_close(own, theirs.tensors[0, :, :height, :width], rtol=0, atol=1.01 / 255 / 0.224)


def test_sides_are_rounded_down_as_torchvisions() -> None:
    # 800 / 305 * 305 is just below 800: a square of 305 px becomes one of 799 px.
    theirs = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3)
    own = Transforms(800, 1333, resize="torchvision")
    sizes = [(305, 305), (300, 400), (337, 500), (350, 700)]
    shown = [theirs([torch.zeros(1, *size).expand(3, -1, -1)])[0].image_sizes[0] for size in sizes]
    assert shown[0] == (799, 799)
    assert [own.resized_size(size, own.for_evaluation) for size in sizes] == shown


@pytest.mark.parametrize(
    ("make", "p6_from", "head_norm"),
    [(retinanet_resnet50_fpn, "p5", "none"), (retinanet_resnet50_fpn_v2, "c5", "group")],
    ids=["v1", "v2"],
)
def test_network_is_read_from_names_and_shapes(make: object, p6_from: str, head_norm: str) -> None:
    model = take(numbered_state_of(make)).description["model"]  # type: ignore[arg-type]
    assert (model["backbone"], model["p6_from"], model["head_norm"]) == ("resnet50", p6_from, head_norm)
    assert (model["p7_relu"], model["stride_in_1x1"]) == (True, False)


def test_names_of_older_files_are_taken() -> None:
    newer = numbered_state_of(retinanet_resnet50_fpn)
    older = {}
    for name, value in newer.items():
        renamed = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", name)
        older[re.sub(r"_head\.conv\.(\d)\.0\.", lambda m: f"_head.conv.{2 * int(m[1])}.", renamed)] = value
    assert len(older.keys() - newer.keys()) == 28  # weight and bias of 3 + 3 pyramid and 4 + 4 head convolutions
    first, second = take(older).state, take(newer).state
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --- classes


def test_coco_classes_are_torchvisions_by_id() -> None:
    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert len(names) == 91 and len(COCO_CLASSES) == 80
    assert {number: name for number, name in enumerate(names) if name not in ("__background__", "N/A")} == COCO_CLASSES


def test_of_91_logits_the_80_of_cocos_classes_are_kept() -> None:
    state = numbered_state_of(retinanet_resnet50_fpn)
    state["head.classification_head.cls_logits.bias"] = torch.arange(9.0 * 91)
    imported = take(state)
    kept = imported.state["class_head.output.bias"].view(9, 80)
    # anchor 2 begins at 182; its 12th class is 13, the stop sign, because 12 is no class
    assert (kept[2, 0], kept[2, 11], kept[2, 79]) == (183, 195, 272)
    assert imported.description["categories"][11] == {"id": 13, "name": "stop sign"}


def test_with_one_name_less_than_logits_the_first_is_the_background() -> None:
    state = numbered_state_of(retinanet_resnet50_fpn, num_classes=3)
    state["head.classification_head.cls_logits.bias"] = torch.arange(27.0)
    imported = take(state, class_names=["cat", "dog"])
    assert imported.state["class_head.output.bias"][:4].tolist() == [1, 2, 4, 5]
    assert [row["name"] for row in imported.description["categories"]] == ["cat", "dog"]
    assert take(state, class_names=["a", "b", "c"]).state["class_head.output.bias"].tolist() == list(range(27))


@pytest.mark.parametrize("names", [None, ["a"], ["a", "b", "c", "d"]])
def test_other_numbers_of_names_are_refused(names: list[str] | None) -> None:
    state = numbered_state_of(retinanet_resnet50_fpn, num_classes=3)
    with pytest.raises(ValueError, match=r"3 logits per anchor.*--classes FILE with 3 names.*or 2 if logit 0 is the"):
        take(state, class_names=names)


# --- eps of the frozen normalisation


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_eps_of_frozen_norms_is_folded(eps: float, generator: torch.Generator) -> None:
    norm = PeersNorm(4, eps=eps)
    norm.weight = torch.tensor([1.0, 2.0, 0.5, -1.0])
    norm.bias, norm.running_mean = torch.arange(4.0), torch.tensor([0.0, 0.1, 3.0, -2.0])
    norm.running_var = torch.tensor([1.0, 1e-7, 1e-4, 30.0])  # of 1e-7 most is eps
    own = FrozenNorm(4)
    state = {f"bn.{name}": value for name, value in norm.state_dict().items()}
    own.load_state_dict({name[3:]: value.float() for name, value in fold_norms(state, eps).items()})
    x = torch.randn(2, 4, 3, 3, generator=generator)
    assert_close(own(x), norm(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(norm(x), with_eps(norm, 1e-5)(x), rtol=1e-2)


def with_eps(norm: FrozenBatchNorm2d, eps: float) -> FrozenBatchNorm2d:
    other = FrozenBatchNorm2d(4, eps=eps)
    other.load_state_dict(norm.state_dict())
    return other


def test_published_file_of_v1_has_eps_0(monkeypatch: pytest.MonkeyPatch) -> None:
    state = numbered_state_of(retinanet_resnet50_fpn)
    variance: Tensor = take(state).state["backbone.bn1.running_var"]
    assert variance[0] == state["backbone.body.bn1.running_var"][0]
    monkeypatch.setattr("tests.peers_weights.DIGEST", "eeacb38b" + DIGEST[8:])
    published = take(state)
    assert_close(published.state["backbone.bn1.running_var"], torch.full((64,), 1 - 1e-5))
    assert published.notes[1].startswith("frozen norms add 0 (torchvision's COCO_V1)")
