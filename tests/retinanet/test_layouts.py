"""The memory layout of a network is a matter of speed: it changes neither a training nor what a detector is given."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import Split, load_split
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import describe_detector
from retinanet.training.state import TrainingState
from tests.small_world import SmallWorld
from tests.tiny_training import GRID, TRANSFORMS, build_state, tiny_network, train

OPTIM = {"sgd": {"optimizer": "sgd", "lr": 0.02}, "adamw": {"optimizer": "adamw", "lr": 0.004}}
EPOCHS = 3


@pytest.fixture
def split(small_world: SmallWorld) -> Split:
    return load_split(small_world.train)


def state_of(layout: torch.memory_format, optimizer: str, *, fused: bool = True) -> TrainingState:
    state = build_state(tiny_network().to(memory_format=layout), optim=OPTIM[optimizer])
    for group in state.optimizer.param_groups:
        group["fused"], group["foreach"] = fused, False
    return state


def losses_of(state: TrainingState, split: Split, *, first: int, epochs: int) -> list[float]:
    """Losses of every step of the epochs from `first` (0-based) on."""
    reports = train(state, split, first_epoch=first, epochs=epochs)
    return [loss for report in reports for loss in report.step_losses]


def detect_on(state: TrainingState, split: Split) -> None:
    """Validate, as between two epochs."""
    description = describe_detector(
        model={"box_means": [0.0] * 4, "box_stds": [1.0] * 4},
        loss={"class_loss": "sigmoid_focal"},
        transforms={"short_side": 64, "long_side": 96},
        anchors=GRID.to_dict(),
        categories=[{"id": number, "name": name} for number, name in enumerate(split.class_names)],
        run={},
    )
    found = list(Detector(state.inference_network, description).predict([EvaluationBatches(split, TRANSFORMS)[0]]))
    assert found


def saved(state: TrainingState) -> Any:
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
optimizers = pytest.mark.parametrize("optimizer", list(OPTIM))
kernels = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])


@layouts
@optimizers
@kernels
def test_training_goes_on_after_a_validation_as_if_there_had_been_none(
    split: Split, layout: torch.memory_format, optimizer: str, fused: bool
) -> None:
    undisturbed = losses_of(state_of(layout, optimizer, fused=fused), split, first=0, epochs=EPOCHS)
    state = state_of(layout, optimizer, fused=fused)
    validated = losses_of(state, split, first=0, epochs=1)
    detect_on(state, split)
    validated += losses_of(state, split, first=1, epochs=EPOCHS)
    assert validated == undisturbed


@layouts
@optimizers
@kernels
def test_training_resumed_in_the_other_layout_has_the_same_curve(
    split: Split, layout: torch.memory_format, optimizer: str, fused: bool
) -> None:
    turned = torch.contiguous_format if layout is torch.channels_last else torch.channels_last
    undisturbed = losses_of(state_of(layout, optimizer, fused=fused), split, first=0, epochs=EPOCHS)
    before, after = (state_of(each, optimizer, fused=fused) for each in (layout, turned))
    resumed = losses_of(before, split, first=0, epochs=1)
    after.load_state_dict(saved(before))
    resumed += losses_of(after, split, first=1, epochs=EPOCHS)
    assert resumed == pytest.approx(undisturbed, rel=1e-4)


@layouts
@optimizers
def test_loaded_state_of_the_optimiser_lies_as_its_weights_and_keeps_its_values(
    split: Split, layout: torch.memory_format, optimizer: str
) -> None:
    turned = torch.contiguous_format if layout is torch.channels_last else torch.channels_last
    before, after = state_of(layout, optimizer), state_of(turned, optimizer)
    train(before, split, epochs=1)
    after.load_state_dict(saved(before))
    weights = zip(before.network.parameters(), after.network.parameters(), strict=True)
    for old, new in weights:
        kept, loaded = before.optimizer.state[old], after.optimizer.state[new]
        assert kept.keys() == loaded.keys() and len(kept) > 0
        for name, value in loaded.items():
            assert torch.equal(value, kept[name]) and value.dtype == kept[name].dtype, name
            assert value.ndim == 0 or value.stride() == new.stride(), name


def test_a_detector_leaves_its_network_as_it_was_given(split: Split) -> None:
    state = state_of(torch.contiguous_format, "sgd")
    before = as_found(state.network)
    detect_on(state, split)
    assert as_found(state.network) == before


def as_found(network: nn.Module) -> list[Any]:
    """Where and how each weight lies, and the mode of each module."""
    places = [(weight.data_ptr(), weight.stride(), weight.dtype) for weight in network.state_dict().values()]
    return [*places, *(module.training for module in network.modules())]
