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
    "head_norm": "none",
    "p6_from": "c5",
    "p7_relu": True,
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
    ("change", "told"),
    [
        ({"backbone": "resnet34"}, "backbone: resnet18 (now resnet34)"),
        ({"p6_from": "p5"}, "p6_from: c5 (now p5)"),
        ({"p7_relu": False}, "p7_relu: true (now false)"),
        ({"stride_in_1x1": True}, "stride_in_1x1: false (now true)"),
        ({"norm": "group"}, "norm: frozen_batch (now group)"),
        ({"head_depth": 2, "head_norm": "group"}, "head_depth: 1 (now 2), head_norm: none (now group)"),
        ({"fpn_channels": 16}, "fpn_channels: 8 (now 16)"),
    ],
)
def test_settings_that_the_weights_decide_are_named_and_nothing_is_loaded(change: dict[str, Any], told: str) -> None:
    trained, own = describe(TRAINED), describe(TRAINED, **change)
    network = draw(own, seed=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"set in section model: ") as caught:
        transfer_weights(network, draw(trained, seed=1).state_dict(), trained=trained, own=own)
    assert str(caught.value).endswith(f"set in section model: {told}")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_other_anchors_per_cell_leave_the_outputs_fresh() -> None:
    state, before, network, told = transfer(describe(TRAINED), describe(TRAINED, scales=2))
    assert told.startswith(
        "loaded backbone, pyramid and heads without box_head.output, which has other anchors per cell; 0 of 3 classes"
    )
    after = network.state_dict()
    outputs = ("class_head.output", "box_head.output")
    assert all(
        torch.equal(value, (before if name.startswith(outputs) else state)[name]) for name, value in after.items()
    )


def test_another_form_of_the_class_loss_starts_its_logits_fresh() -> None:
    _, before, network, told = transfer(describe(TRAINED), describe(TRAINED, class_loss="softmax_focal"))
    assert "0 of 3 classes" in told
    assert torch.equal(network.state_dict()["class_head.output.bias"], before["class_head.output.bias"])


def test_settings_that_differ_from_those_of_the_weights_are_named() -> None:
    own = describe(TRAINED, mean=0.4, box_stds=[0.1] * 4, scales=1)
    trained = describe(TRAINED)
    _, _, _, told = transfer(trained, own)
    assert told.endswith("; it was trained with other model.box_stds, transforms.mean, anchors.sizes")


def test_batch_norms_take_the_statistics_of_frozen_ones() -> None:
    state, _, network, _ = transfer(describe(TRAINED), describe(TRAINED, norm="batch"))
    assert torch.equal(network.backbone.bn1.running_var, state["backbone.bn1.running_var"])
