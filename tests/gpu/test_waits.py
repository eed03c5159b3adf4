"""No step waits for its device: the meta device stands for a GPU, because it refuses whatever needs a value.

`item`, `nonzero`, boolean masks and the like raise on it; what reads CPU tensors into it is counted here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from retinanet.anchors import boxes
from retinanet.data.dataset import Batch
from retinanet.network import model
from retinanet.training.engine import train_one_epoch
from retinanet.training.progress import StepLog, TrainingProgress
from retinanet.training.state import TrainingState
from tests.tiny_training import build_state, made_up_batch, tiny_network

META = torch.device("meta")
BOXES = [[8.0, 8.0, 40.0, 40.0], [20.0, 4.0, 60.0, 30.0]]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "image": {"normaliser": "image"},
    "giou": {"box_loss": "giou", "box_stds": [0.1, 0.1, 0.2, 0.2]},
    "ciou": {"box_loss": "ciou"},
    "per class": {"alpha": [0.25, 0.5, 0.75]},
    "no alpha, gamma .5": {"alpha": None, "gamma": 0.5},
}


class Copies(TorchDispatchMode):
    """Collects the copies from the CPU to the device: True where they do not block."""

    def __init__(self) -> None:
        super().__init__()
        self.non_blocking: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to_device = kwargs.get("device") is not None and torch.device(kwargs["device"]) == META
        if to_device and args and isinstance(args[0], torch.Tensor) and args[0].device.type == "cpu":
            self.non_blocking.append(bool(kwargs.get("non_blocking")))
        return func(*args, **kwargs)


class Lists(TorchFunctionMode):
    """Collects tensors made on the device from Python numbers, which are copied there and waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = (resolve_name(func) or "").rpartition(".")[2]
        made_there = name in ("tensor", "as_tensor") and kwargs.get("device") == META
        if made_there or (name == "new_tensor" and args[0].device == META):
            self.calls.append(name)
        return func(*args, **kwargs)


def build_meta_state(loss: dict[str, Any], **options: Any) -> TrainingState:
    state = build_state(tiny_network().to(META), loss=loss, **options)
    state.device = META
    # The fused form of ours is not for this device.
    state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.01, momentum=0.9)
    state.schedule = LambdaLR(state.optimizer, lambda step: 1.0)
    state.criterion.__class__ = state.criterion.__class__.__mro__[1]  # the plain one: tests' own reads the normaliser
    return state


def batch_of(num_images: int, generator: torch.Generator) -> Batch:
    return made_up_batch(num_images, BOXES, generator)


@pytest.fixture(autouse=True)
def constants() -> None:
    """As at the first step: no constant is on the device yet."""
    boxes._constants.cache_clear()
    model._scale_and_shift.cache_clear()


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_reads_nothing_back_and_copies_without_waiting(
    variant: str, clip: float | None, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Losses and gradient norms are read at a pause and at the end of an epoch.
    monkeypatch.setattr(StepLog, "flush", lambda self: None)
    state = build_meta_state(VARIANTS[variant], clip_grad_norm=clip)
    batches = [batch_of(4, generator) for _ in range(5)]
    for _ in train_one_epoch(state, batches[:1], TrainingProgress()):
        pass
    with Copies() as copies, Lists() as lists:
        for _ in train_one_epoch(state, batches[1:], TrainingProgress()):
            pass
    assert lists.calls == []
    # Per step: normaliser with requests, images, and six tensors of the assignment.
    assert copies.non_blocking == [True] * 8 * 4


def test_micro_batches_need_a_copy_of_their_own_each(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepLog, "flush", lambda self: None)
    state = build_meta_state({}, images_per_step=2)
    with Copies() as copies:
        for _ in train_one_epoch(state, [batch_of(4, generator)], TrainingProgress()):
            pass
    assert copies.non_blocking.count(True) == 1 + 2 * 7


def test_the_counters_see_what_they_count() -> None:
    with Copies() as copies, Lists() as lists:
        torch.ones(2).to(META)
        torch.ones(2).to(META, non_blocking=True)
        torch.tensor([1.0], device=META)
    assert copies.non_blocking == [False, True] and lists.calls == ["tensor"]
    with pytest.raises(RuntimeError):
        torch.ones(2, device=META).sum().item()
    with pytest.raises(RuntimeError):
        torch.ones(2, device=META).nonzero()
