from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.testing import assert_close

from retinanet.network.backbone import build_backbone
from retinanet.training.optim import (
    SCHEDULES,
    construct_ema,
    construct_optimizer,
    lr_factor,
    scale_lr,
)


class Small(nn.Module):
    """One decayed weight, one norm, one bias, one frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


# ---- the optimiser ----


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_decay_but_biases_and_norms_do_not(optimizer: str) -> None:
    model = Small()
    groups = construct_optimizer(model, optimizer=optimizer, lr=0.5, weight_decay=0.1).param_groups
    decayed = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decayed == {
        id(model.conv.weight): 0.1,
        id(model.conv.bias): 0.0,
        id(model.norm.weight): 0.0,
        id(model.norm.bias): 0.0,
    }
    assert {group["lr"] for group in groups} == {0.5}


def test_frozen_stages_of_a_backbone_are_not_in_the_optimiser() -> None:
    backbone = build_backbone("resnet18", norm="group", frozen_stages=2)
    held = {id(p) for group in construct_optimizer(backbone).param_groups for p in group["params"]}
    frozen = [*backbone.conv1.parameters(), *backbone.bn1.parameters(), *backbone.layer1.parameters()]
    assert frozen and not held & {id(parameter) for parameter in frozen}
    assert {id(parameter) for parameter in backbone.layer2.parameters()} < held


def test_a_model_without_biases_needs_no_second_group() -> None:
    assert len(construct_optimizer(nn.Linear(2, 2, bias=False)).param_groups) == 1


def test_sgd_worked_by_hand() -> None:
    # w 1, gradient 3, decay .1: 3.1; lr .1: w .69. Momentum .9: .9 * 3.1 + (3 + .069) = 5.859; w .69 - .5859 = .1041
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    optimizer = construct_optimizer(weight, lr=0.1, momentum=0.9, weight_decay=0.1)
    for expected in (0.69, 0.1041):
        weight.weight.grad = torch.tensor([[3.0]])
        optimizer.step()
        assert_close(weight.weight.item(), expected, rtol=1e-6, atol=0)


class Body(nn.Module):
    """A weight of 1 in a backbone, and one in a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.backbone.weight)
        nn.init.ones_(self.head.weight)


def test_backbone_learns_at_its_factor_of_the_rate_worked_by_hand() -> None:
    # Gradients 3, lr .1, factor .1: head 1 - .3, backbone 1 - .03. Then at half the rate: .7 - .15 and .97 - .015.
    # Last with gradients clipped to a norm of 1, 3 / sqrt(18) = .7071 each, at half the rate: -.035355 and -.0035355.
    model = Body()
    optimizer = construct_optimizer(model, lr=0.1, momentum=0.0, weight_decay=0.0, backbone_lr_factor=0.1)
    schedule = LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.5)
    expected = [(0.7, 0.97), (0.55, 0.955), (0.55 - 0.0353553, 0.955 - 0.00353553)]
    for step, (head, backbone) in enumerate(expected):
        for layer in (model.backbone, model.head):
            layer.weight.grad = torch.tensor([[3.0]])
        if step == 2:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        assert_close(model.head.weight.item(), head, rtol=1e-6, atol=0)
        assert_close(model.backbone.weight.item(), backbone, rtol=1e-6, atol=0)


def test_groups_of_the_backbone_keep_the_rule_of_decay_and_come_last() -> None:
    model = nn.ModuleDict({"backbone": Small(), "head": Small()})
    groups = construct_optimizer(model, lr=0.5, weight_decay=0.1, backbone_lr_factor=0.2).param_groups
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (0.5, 0.1, 1),
        (0.5, 0.0, 3),
        (0.1, 0.1, 1),
        (0.1, 0.0, 3),
    ]
    assert groups[2]["params"][0] is model["backbone"].conv.weight
    assert len(construct_optimizer(model, backbone_lr_factor=1.0).param_groups) == 2


def test_an_unknown_optimiser_is_named() -> None:
    with pytest.raises(ValueError, match=r"optim\.optimizer is 'lamb', expected sgd or adamw"):
        construct_optimizer(Small(), optimizer="lamb")


def test_lr_is_scaled_linearly_with_the_batch() -> None:
    assert_close(scale_lr(0.01, 16, 16), 0.01)
    assert_close(scale_lr(0.01, 16, 4), 0.0025)
    assert_close(scale_lr(0.01, 16, 64), 0.04)


# ---- schedules, at their corners ----


def test_steps_fall_at_two_thirds_and_eight_ninths() -> None:
    # of 90 steps: 60 and 80, so step 59 is the last with 1 and step 60 the first with .1
    factors = {step: lr_factor(step, 90) for step in (0, 59, 60, 79, 80, 89)}
    expected = {0: 1.0, 59: 1.0, 60: 0.1, 79: 0.1, 80: 0.01, 89: 0.01}
    assert_close(factors, expected)


def test_steps_of_ones_own() -> None:
    factors = [lr_factor(step, 4, steps=[0.5], step_factor=0.2) for step in range(4)]
    assert_close(factors, [1.0, 1.0, 0.2, 0.2])


@pytest.mark.parametrize("schedule", ["steps", "constant", "cosine"])
def test_warm_up_is_a_line_from_its_start_to_one(schedule: str) -> None:
    # 10 of 100 steps: .1 at step 0, .1 + .9 * 5 / 10 = .55 at step 5, .1 + .9 * .9 = .91 at step 9, 1 at step 10
    options = {"schedule": schedule, "warmup_fraction": 0.1, "warmup_start": 0.1}
    assert_close([lr_factor(step, 100, **options) for step in (0, 5, 9, 10)], [0.1, 0.55, 0.91, 1.0])


def test_one_cycle_rises_along_half_a_cosine_and_falls_along_the_other() -> None:
    # rise over 20 steps: .04 + .96 * (1 - cos(pi / 2)) / 2 = .52 at its middle; fall over 80: .5 at its middle
    options = {"schedule": "one_cycle", "warmup_fraction": 0.2, "warmup_start": 0.04}
    assert_close([lr_factor(step, 100, **options) for step in (0, 10, 20, 60, 100)], [0.04, 0.52, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_last_step_of_a_cosine_is_almost_nothing(schedule: str) -> None:
    # (1 + cos(pi * 999 / 1000)) / 2 = (pi / 1000)^2 / 4 = 2.5e-6
    assert 0 < lr_factor(999, 1000, schedule=schedule) < 3e-6


def test_constant_stays() -> None:
    assert {lr_factor(step, 7, schedule="constant") for step in range(7)} == {1.0}


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match=r"optim\.schedule is 'linear', expected one of steps, cosine, one_cycle"):
        lr_factor(0, 10, schedule="linear")


@given(
    schedule=st.sampled_from(SCHEDULES),
    total=st.integers(1, 300),
    warmup=st.floats(0, 1),
    start=st.floats(0, 1),
)
def test_a_factor_never_leaves_zero_to_one(schedule: str, total: int, warmup: float, start: float) -> None:
    options = {"schedule": schedule, "warmup_fraction": warmup, "warmup_start": start}
    factors = [lr_factor(step, total, **options) for step in range(total + 1)]
    assert min(factors) >= 0 and max(factors) <= 1


def test_the_schedule_moves_the_optimisers_lr_step_by_step() -> None:
    optimizer = construct_optimizer(Small(), lr=2.0)
    schedule = LambdaLR(
        optimizer, partial(lr_factor, total_steps=4, schedule="cosine", warmup_fraction=0.5, warmup_start=0.0)
    )
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    # warm-up 0, .5; then (1 + cos(0)) / 2 = 1 and (1 + cos(pi / 2)) / 2 = .5, times 2
    assert_close(rates, [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [1.0, 1.0]])


# ---- the moving average ----


def test_the_average_follows_its_recursion(generator: torch.Generator) -> None:
    model = Small()
    ema = construct_ema(model, 0.3)
    assert ema is not None
    expected = torch.zeros(4)
    with torch.no_grad():
        ema.module.conv.bias.zero_()
        ema.module.norm.running_mean.zero_()
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.3, 0.3):  # (1 + t) / (10 + t), until it exceeds .3 at 4 / 13
        values = torch.randn(4, generator=generator)
        with torch.no_grad():
            model.conv.bias.copy_(values)
            model.norm.running_mean.copy_(values)  # buffers are averaged too
            model.norm.num_batches_tracked += 3  # and integers copied
        ema.update_parameters(model)
        expected = decay * expected + (1 - decay) * values
        assert_close(ema.module.conv.bias.detach(), expected)
        assert_close(ema.module.norm.running_mean, expected)
        assert torch.equal(ema.module.norm.num_batches_tracked, model.norm.num_batches_tracked)
    assert torch.equal(model.conv.bias.detach(), values)


def test_the_average_forgets_the_initial_weights_early() -> None:
    # With a fixed decay of .9998 they would be .9998^2000 = .67 of it. With the ramp, (1 + t) / (10 + t) over t < 2000
    # is 9! 2000! / 2009!, which is below 1e-20.
    model = Small()
    ema = construct_ema(model, 0.9998)
    assert ema is not None
    with torch.no_grad():
        ema.module.conv.bias.fill_(1e6)
        model.conv.bias.zero_()
    for _ in range(2000):
        ema.update_parameters(model)
    assert ema.module.conv.bias.abs().max() < 1e-6


def test_without_a_decay_there_is_no_average() -> None:
    assert construct_ema(Small(), None) is None
