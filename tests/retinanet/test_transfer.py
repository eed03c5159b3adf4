"""Laws of transfer learning: what fits is loaded exactly, classes by name, and the rest stays as it was drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from retinanet.anchors.grid import build_grid
from retinanet.inference.detector import build_network
from retinanet.network.model import RetinaNet
from retinanet.network.transfer import transfer_weights

MODEL = {
    "backbone": "resnet18",
    "norm": "frozen_batch",
    "fpn_channels": 8,
    "head_channels": 8,
    "head_depth": 1,
    "stride_in_1x1": False,
    "box_stds": [1.0] * 4,
}
TRAINED = ["cat", "dog", "cow"]
PARTS = ("backbone", "pyramid", "class_head.tower", "box_head")


def describe(
    names: list[str], *, class_loss: str = "sigmoid_focal", mean: float = 0.5, scales: int = 3, **model: Any
) -> dict[str, Any]:
    return {
        "model": MODEL | model,
        "loss": {"class_loss": class_loss},
        "transforms": {"mean": [mean] * 3, "std": [0.2] * 3},
        "anchors": build_grid(scales_per_octave=scales).to_dict(),
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }


def draw(description: dict[str, Any], *, seed: int) -> RetinaNet:
    """A network whose entries, statistics and biases too, are all drawn."""
    torch.manual_seed(seed)
    network = build_network(description)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape))
    return network


def transfer(
    trained: dict[str, Any], own: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor], RetinaNet, str]:
    """The weights of the trained network and of the new one before and after, and the sentence."""
    state, network = draw(trained, seed=1).state_dict(), draw(own, seed=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    told = transfer_weights(network, state, trained=trained, own=own)
    return state, before, network, told


def by_class(state: dict[str, Tensor], name: str, num_logits: int) -> Tensor:
    return state[f"class_head.output.{name}"].unflatten(0, (9, num_logits))


@pytest.mark.parametrize("class_loss", ["sigmoid_focal", "softmax_focal"])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_classes_are_loaded_by_name_and_others_stay_fresh(class_loss: str, leaf: str) -> None:
    first = int(class_loss == "softmax_focal")  # logit 0 is the background
    state, before, network, told = transfer(
        describe(TRAINED, class_loss=class_loss), describe(["owl", "cow", "cat"], class_loss=class_loss)
    )
    theirs, own = by_class(state, leaf, 3 + first), by_class(network.state_dict(), leaf, 3 + first)
    assert torch.equal(own[:, first], by_class(before, leaf, 3 + first)[:, first])
    assert torch.equal(own[:, first + 1 :], theirs[:, [first + 2, first]])
    assert first == 0 or torch.equal(own[:, 0], theirs[:, 0])
    assert told == (
        "loaded backbone, pyramid and heads; 2 of 3 classes have its logits by name, the others start fresh"
    )


def test_all_other_parts_are_the_detectors() -> None:
    state, _, network, _ = transfer(describe(TRAINED), describe(["owl"]))
    loaded = {name: value for name, value in network.state_dict().items() if name.startswith(PARTS)}
    assert len(loaded) == len(network.state_dict()) - 2
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        ({"p6_from": "p5"}, "pyramid.p6"),
        ({"head_depth": 2}, "class_head.tower, box_head.tower, box_head.output"),
        ({"head_norm": "group"}, "class_head.tower, box_head.tower, box_head.output"),
        ({"scales": 2}, "box_head.output"),
    ],
)
def test_what_does_not_fit_stays_fresh_and_is_named(change: dict[str, Any], fresh: str) -> None:
    own = describe(TRAINED, **change)
    state, before, network, told = transfer(describe(TRAINED), own)
    assert f"loaded backbone, pyramid and heads without {fresh};" in told
    after = network.state_dict()
    kept = tuple(fresh.split(", "))
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith(kept))
    assert torch.equal(after["pyramid.outputs.0.weight"], state["pyramid.outputs.0.weight"])
    is_loaded = "class_head.tower" not in fresh and "scales" not in change
    assert f"{3 * is_loaded} of 3 classes" in told


def test_a_narrower_network_takes_the_backbone_alone() -> None:
    _, before, network, told = transfer(describe(TRAINED), describe(TRAINED, fpn_channels=16))
    assert told.startswith("loaded the backbone alone; 0 of 3 classes")
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if not name.startswith("backbone."))


def test_another_form_of_the_class_loss_starts_its_logits_fresh() -> None:
    _, before, network, told = transfer(describe(TRAINED), describe(TRAINED, class_loss="softmax_focal"))
    assert "0 of 3 classes" in told
    assert torch.equal(network.state_dict()["class_head.output.bias"], before["class_head.output.bias"])


def test_settings_that_differ_from_those_of_the_weights_are_named() -> None:
    own = describe(TRAINED, mean=0.4, stride_in_1x1=True, scales=1)
    trained = describe(TRAINED)
    _, _, _, told = transfer(trained, own)
    assert told.endswith("; it was trained with other model.stride_in_1x1, transforms.mean, anchors.sizes")


def test_batch_norms_take_the_statistics_of_frozen_ones() -> None:
    state, _, network, _ = transfer(describe(TRAINED), describe(TRAINED, norm="batch"))
    assert torch.equal(network.backbone.bn1.running_var, state["backbone.bn1.running_var"])


def test_another_backbone_is_refused_and_nothing_is_loaded() -> None:
    own = describe(TRAINED, backbone="resnet34")
    network, state = draw(own, seed=2), draw(describe(TRAINED), seed=1).state_dict()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"model\.weights the detector does not fit resnet34: \d+ entries missing"):
        transfer_weights(network, state, trained=describe(TRAINED), own=own)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
