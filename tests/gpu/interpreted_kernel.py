"""The fused kernel of the focal loss, in Triton's interpreter, beside the plain formulation in float64.

test_kernel.py runs these tests in a process of its own, because TRITON_INTERPRET must be set before Triton is imported.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retinanet.losses import focal_background, kernel, maps, sparse_sigmoid_focal_loss
from tests.focal_problems import FocalProblem, demand_the_rule, focal_problems

GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
N, C, K, H, W = 2, 3, 5, 7, 6  # 1260 logits: the second block of the kernel is not full
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def weights(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of classes and of images."""
    return torch.rand(K, generator=generator), torch.rand(N, generator=generator)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_kernel_is_the_plain_formulation(
    generator: torch.Generator, dtype: torch.dtype, gamma: float, layout: torch.memory_format
) -> None:
    logits = (4 * torch.randn(N, C * K, H, W, generator=generator)).to(dtype).contiguous(memory_format=layout)
    background, image_weights = weights(generator)
    gradient = torch.full_like(logits, torch.nan)
    total = kernel.background_pass(logits, gradient, background, image_weights, gamma=gamma)
    value, slope = focal_background(logits.double(), gamma)
    weight = image_weights.double()[:, None, None, None] * background.double().repeat(C)[:, None, None]
    assert total.dtype == torch.float64
    assert_close(total, (value * weight).sum(), rtol=1e-6, atol=0.0)
    assert_close(gradient.double(), slope * weight, rtol=TOLERANCES[dtype], atol=1e-7)


def test_kernel_is_exact_for_every_size_of_a_logit() -> None:
    # From a p of e^-80 to one that rounds to 1; each alone in its image, so that no sum hides an error.
    logits = torch.tensor([-80.0, -30, -15, -8, -4.6, -1, 0, 1, 4, 15, 30, 80])[:, None, None, None]
    for gamma in GAMMAS:
        value, slope = focal_background(logits.double(), gamma)
        for i in range(len(logits)):
            gradient = torch.empty(1, 1, 1, 1)
            total = kernel.background_pass(logits[i : i + 1], gradient, torch.ones(1), torch.ones(1), gamma=gamma)
            # p^gamma in float32 is exact to gamma times the rounding of log(p), which is up to 80 here.
            assert_close(total, value[i].sum(), rtol=1e-6 + 1e-5 * gamma, atol=1e-37)
            assert_close(gradient.double(), slope[i : i + 1], rtol=1e-6 + 1e-5 * gamma, atol=1e-37)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_loss_through_the_kernel_is_that_of_the_cpu(
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    gamma: float,
    layout: torch.memory_format,
) -> None:
    logits = (3 * torch.randn(N, C * K, H, W, generator=generator)).contiguous(memory_format=layout)
    positions = torch.randperm(N * C * H * W, generator=generator)[:30]
    image, anchor, y, x = torch.unravel_index(positions, (N, C, H, W))
    labels = torch.randint(0, K, (30,), generator=generator)
    targets = {
        "foreground": tuple(part[:12] for part in (image, anchor * K + labels, y, x)),
        "ignored": tuple(part[12:] for part in (image, anchor, y, x)),
    }
    alpha, image_weights = weights(generator)
    results = []
    for fused in (False, True):
        monkeypatch.setattr(maps, "uses_kernel", lambda device, fused=fused: fused)
        leaf = logits.clone().requires_grad_()
        loss = sparse_sigmoid_focal_loss(leaf, **targets, class_alpha=alpha, gamma=gamma, image_weights=image_weights)  # type: ignore[arg-type]
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(problem=focal_problems())
def test_loss_through_the_kernel_is_what_the_rule_says(problem: FocalProblem) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "uses_kernel", lambda device: True)
        demand_the_rule(problem, 2e-6 + 1e-5 * problem.gamma)


class Bytes(TorchDispatchMode):
    """Counts the bytes that operations of torch read and write."""

    VIEWS = ("view", "unflatten", "select", "slice", "expand", "detach", "empty", "alias", "split", "permute")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(view in str(func) for view in self.VIEWS):
            tensors = {id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
            if any(name in str(func) for name in ("index_put", "index.Tensor")):  # only the chosen elements of a map
                largest = max(tensors.values(), key=Tensor.numel)
                tensors = {key: t for key, t in tensors.items() if t is not largest}
            is_in_place = str(func).split(".")[1].endswith("_")
            written = args[0] if is_in_place and id(args[0]) in tensors else None  # in place: read and written
            self.count += sum(t.numel() * t.element_size() * (2 if t is written else 1) for t in tensors.values())
        return result


def test_loss_moves_hardly_more_than_logits_and_gradient(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bar: 1.2 times logits read plus gradient written. The kernel itself is those; the rest is counted, and what
    the kernel for the factor of the backward pass moves, which is nothing for a factor of 1."""
    monkeypatch.setattr(maps, "uses_kernel", lambda device: True)
    monkeypatch.setattr(kernel, "background_pass", lambda *arguments, **options: torch.zeros((), dtype=torch.float64))
    monkeypatch.setattr(kernel, "scale_unless_one", lambda *arguments: None)
    classes, cells = 80, 9
    logits = torch.randn(2, cells * classes, 40, 50, generator=generator).bfloat16().requires_grad_()
    # 800 x 1344 px have 200,000 anchors, of which 60 are foreground and 100 ignored with 7 boxes an image.
    share = logits.shape[2] * logits.shape[3] * cells * 2
    num_foreground, num_ignored = share * 60 // 200_000 + 1, share * 100 // 200_000 + 1
    draw = [torch.zeros(count, dtype=torch.int64) for count in (num_foreground, num_ignored)]
    with Bytes() as moved:
        loss = sparse_sigmoid_focal_loss(
            logits,
            (draw[0],) * 4,
            (draw[1],) * 4,
            class_alpha=torch.full((classes,), 0.25),
            gamma=2.0,
            image_weights=torch.ones(2),
        )
        torch.autograd.grad(loss, logits)
    fused = 2 * logits.numel() * logits.element_size()
    assert moved.count + fused <= 1.2 * fused


def test_factor_of_one_writes_nothing() -> None:
    # A multiplication of a signalling NaN is an invalid operation, of which numpy warns.
    bits = torch.full((1, 1, 40, 40), 0x7FA00000, dtype=torch.int32)
    values = bits.view(torch.float32)
    kernel.scale_unless_one(values, torch.tensor(1.0))
    assert (bits == 0x7FA00000).all()
    with pytest.raises(Exception, match="invalid value encountered in multiply"):
        kernel.scale_unless_one(values, torch.tensor(2.0))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_other_factors_scale_every_value(generator: torch.Generator, dtype: torch.dtype) -> None:
    values = torch.randn(N, C * K, H, W, generator=generator).to(dtype)
    expected = values.double() * 3
    kernel.scale_unless_one(values, torch.tensor(3.0, dtype=torch.float64))
    assert_close(values.double(), expected, rtol=TOLERANCES[dtype], atol=0.0)


def test_maps_that_the_kernel_does_not_take_go_the_plain_way() -> None:
    assert kernel.is_supported(torch.zeros(2, 4, 3, 5)) and kernel.is_supported(
        torch.zeros(2, 3, 5, 4).permute(0, 3, 1, 2)
    )
    assert not kernel.is_supported(torch.zeros(2, 4, 3, 5).double())
    assert not kernel.is_supported(torch.zeros(2, 4, 3, 10)[..., ::2])
    assert not maps.uses_kernel(torch.device("cpu")) and maps.uses_kernel(torch.device("cuda"))
