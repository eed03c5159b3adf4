"""Laws of `deterministic: true`: every operation of a step has a deterministic algorithm on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retinanet.training.determinism import set_deterministic
from retinanet.training.engine import train_one_epoch
from retinanet.training.progress import StepLog, TrainingProgress
from tests.gpu.test_waits import META, VARIANTS, batch_of, build_meta_state
from tests.tiny_training import build_state, tiny_network, train_step

# Those that raise on a CUDA tensor while the switch is on, by torch.use_deterministic_algorithms.__doc__ of torch 2.15.
REFUSED = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_ctc_loss_backward",
    "_embedding_bag_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "bincount",
    "fractional_max_pool2d_backward",
    "grid_sampler_2d_backward",
    "histc",
    "max_unpool2d",
    "median",
    "nll_loss2d_forward",
    "nll_loss_forward",
    "put",
    "put_",
    "reflection_pad2d_backward",
    "scatter_reduce",
    "scatter_reduce_",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}


class Operations(TorchDispatchMode):
    """Notes the operations on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.device == META for leaf in tree_leaves((args, result))):
            self.names.add(str(func).partition(".")[2].partition(".")[0])
        return result


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    set_deterministic(True)
    yield
    set_deterministic(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_operation_of_a_step_is_refused(
    variant: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepLog, "flush", lambda self: None)
    state = build_meta_state(VARIANTS[variant], clip_grad_norm=1.0)
    with Operations() as operations:
        for _ in train_one_epoch(state, [batch_of(4, generator)], TrainingProgress()):
            pass
    assert {"convolution", "convolution_backward", "upsample_nearest2d_backward"} <= operations.names
    assert operations.names & REFUSED == set()


@pytest.mark.usefixtures("deterministic")
def test_switch_is_on_with_what_cublas_needs(generator: torch.Generator) -> None:
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    losses = [train_step(build_state(tiny_network()), batch_of(4, torch.Generator().manual_seed(3))) for _ in range(2)]
    assert torch.equal(*losses)


def test_counter_sees_an_operation_that_would_be_refused() -> None:
    images = torch.zeros(1, 3, 8, 8, device=META, requires_grad=True)
    with Operations() as operations:
        torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear").sum().backward()
    assert operations.names & REFUSED == {"upsample_bilinear2d_backward"}
