"""Laws of the gradient norm that an epoch reports: that of the global batch before clipping, whatever computes it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from retinanet.data.dataset import Batch
from retinanet.training.engine import clip_gradients, train_epochs, train_one_epoch
from retinanet.training.graph import StepGraph
from retinanet.training.progress import EpochReport, TrainingProgress
from retinanet.training.state import TrainingState
from tests.tiny_training import build_state, made_up_batch

LR = 0.01
PLAIN: dict[str, Any] = {"optimizer": "sgd", "lr": LR, "momentum": 0.0, "weight_decay": 0.0}
BOXES = [[8.0, 8.0, 40.0, 40.0]]


def weights(state: TrainingState) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in state.network.parameters()])


def norms_of(state: TrainingState, batches: list[Batch]) -> list[float]:
    """Of every update."""
    progress = TrainingProgress()
    assert list(train_one_epoch(state, batches, progress)) == []
    return progress.grad_norms


def with_gradients(*values: list[float], clip: float | None) -> TrainingState:
    """A state whose first parameters have these gradients, and the others none."""
    state = build_state(clip_grad_norm=clip)
    for parameter, own in zip(state.network.parameters(), values, strict=False):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[: len(own)] = torch.tensor(own)
    return state


def gradients(state: TrainingState) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in state.network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("clip", "factor"), [(None, 1.0), (26.0, 1.0), (6.5, 0.5)])
def test_norm_is_that_of_all_gradients_as_one_vector_before_clipping(clip: float | None, factor: float) -> None:
    state = with_gradients([3.0, 4.0], [12.0], clip=clip)  # sqrt(9 + 16 + 144) = 13
    before = gradients(state)
    assert clip_gradients(state).item() == 13.0
    for own, given in zip(gradients(state), before, strict=True):
        assert_close(own, factor * given, rtol=1e-6, atol=0)  # torch divides by 13 + 1e-6


def test_gradients_that_are_not_clipped_keep_every_bit(generator: torch.Generator) -> None:
    state = build_state()
    for parameter in state.network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = gradients(state)
    clip_gradients(state)
    assert all(torch.equal(own, given) for own, given in zip(gradients(state), before, strict=True))


@pytest.mark.parametrize("clip", [None, 1e6, 1e-3])
def test_step_of_plain_descent_is_as_long_as_its_norm_says(generator: torch.Generator, clip: float | None) -> None:
    state = build_state(optim=PLAIN, clip_grad_norm=clip)
    before = weights(state)
    (norm,) = norms_of(state, [made_up_batch(2, BOXES, generator)])
    length = (weights(state) - before).norm().item()
    assert norm > 0.1
    # Weights of 1 are rounded to 6e-8, so a step of 1e-5 is known to a hundredth.
    assert length == pytest.approx(LR * min(norm, clip or math.inf), rel=1e-2 if clip == 1e-3 else 1e-4)


@pytest.mark.parametrize("options", [{"images_per_step": 1}, {"images_per_step": 3}, {"in_graph": True}])
def test_norm_does_not_depend_on_how_a_batch_is_computed(generator: torch.Generator, options: dict[str, Any]) -> None:
    batches = [made_up_batch(4, BOXES, generator) for _ in range(2)]
    in_graph, rest = options.get("in_graph", False), {key: options[key] for key in options.keys() - {"in_graph"}}
    whole, other = build_state(optim=PLAIN), build_state(optim=PLAIN, **rest)
    other.graph = StepGraph(other.network) if in_graph else None
    expected, found = norms_of(whole, batches), norms_of(other, batches)
    assert len(expected) == 2 and expected[0] != expected[1]
    assert found == pytest.approx(expected, rel=1e-5)


def test_norm_of_half_precision_is_that_of_the_loss_and_not_of_its_scale(generator: torch.Generator) -> None:
    batch = made_up_batch(2, BOXES, generator)
    exact, half = (build_state(optim=PLAIN, precision=precision) for precision in ("fp32", "fp16"))
    assert half.scaler.get_scale() > 1000
    assert norms_of(half, [batch]) == pytest.approx(norms_of(exact, [batch]), rel=0.02)


def test_report_has_mean_and_maximum_of_the_finite_ones() -> None:
    progress = TrainingProgress(losses=[[1.0, 1.0]] * 4, grad_norms=[3.0, math.inf, 4.0, math.nan], seconds=1.0)
    report = progress.end_epoch(step=4)
    assert (report.grad_norm, report.grad_norm_max) == (3.5, 4.0)
    assert progress.grad_norms == []


def test_report_of_an_epoch_without_an_update_has_none() -> None:
    report = TrainingProgress(losses=[[1.0, 1.0]], seconds=1.0).end_epoch(step=1)
    assert (report.grad_norm, report.grad_norm_max) == (None, None)


def test_skipped_step_has_no_norm(generator: torch.Generator) -> None:
    state, batches = build_state(max_skipped=1), [made_up_batch(2, BOXES, generator) for _ in range(3)]
    bias, progress = state.network.box_head.output.bias, TrainingProgress()

    def batches_of(epoch: int, first_step: int) -> Any:
        yield batches[0]
        good = bias.detach().clone()
        bias.data.fill_(math.nan)
        yield batches[1]
        bias.data.copy_(good)
        yield batches[2]
        assert len(progress.losses) == 0  # they are on the device until the end of the epoch

    (report,) = train_epochs(state, batches_of, progress=progress, epochs=1)
    assert isinstance(report, EpochReport) and report.skipped == 1
    assert report.grad_norm is not None and report.grad_norm_max is not None
    assert 0 < report.grad_norm < report.grad_norm_max < math.inf


def test_last_pause_keeps_the_norms_of_the_epoch_so_far(generator: torch.Generator) -> None:
    batches = [made_up_batch(2, BOXES, generator) for _ in range(3)]
    expected = norms_of(build_state(optim=PLAIN), batches)
    progress = TrainingProgress()
    pauses = [
        list(progress.grad_norms)
        for _ in train_one_epoch(build_state(optim=PLAIN), batches, progress, checkpoint_every=1)
    ]
    assert pauses == [expected[:1], expected[:2]] and progress.grad_norms == expected
