"""Laws of `cuda_graphs: true`, with a recording on the CPU in place of a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retinanet.anchors import boxes
from retinanet.data.dataset import Batch, split_batch
from retinanet.losses import fixed_shapes, focal_background, maps
from retinanet.losses.criterion import Criterion
from retinanet.losses.precision import wide
from retinanet.network import model
from retinanet.training import graph
from retinanet.training.engine import compute_gradients_in_graph, train_one_epoch
from retinanet.training.graph import WARM_UP, StepGraph
from retinanet.training.loading import assign_targets
from retinanet.training.progress import StepLog, TrainingProgress
from retinanet.training.state import TrainingState
from tests.gpu import tape
from tests.gpu.test_waits import META, VARIANTS, build_meta_state
from tests.tiny_training import CPU, GRID, MEAN, STD, build_state, made_up_batch, tiny_network

SMALL, LARGE, THIN = [8.0, 8.0, 40.0, 40.0], [2.0, 4.0, 60.0, 58.0], [20.0, 4.0, 60.0, 30.0]
# Boxes of every image: some batches have levels without foreground, and one has no boxes at all.
SCENES = [[THIN, LARGE, SMALL], [SMALL, THIN], [LARGE], [], [SMALL], [LARGE, THIN]]
OPTIONS: dict[str, dict[str, Any]] = {
    "clipped, averaged, with a schedule": {
        "clip_grad_norm": 0.5,
        "ema_decay": 0.9,
        "ramp": {"schedule": "one_cycle", "warmup_fraction": 0.5},
        "total_steps": 6,
    },
    "adamw, in parts": {
        "optim": {"optimizer": "adamw", "lr": 0.002},
        "eps": 1e-5,
        "images_per_step": 2,
        "max_skipped": 3,
    },
    "half precision": {"precision": "bf16"},
    **{f"loss: {name}": {"loss": loss} for name, loss in VARIANTS.items()},
    "loss: softmax": {"loss": {"class_loss": "softmax_focal"}},
    "loss: batch of images": {"loss": {"normaliser": "batch_of_images"}},
}


def batches(generator: torch.Generator) -> list[Batch]:
    """Three images of a canvas of 64 x 64 px, of other sizes in every batch."""
    given = []
    for i, scene in enumerate(SCENES):
        batch = made_up_batch(3, scene, generator)
        sizes = torch.tensor([[64, 64], [64, 60 - i], [61 - i, 64]])
        given.append(batch._replace(image_sizes=sizes, labels=torch.arange(len(batch.labels)) % 3))
    return given


def state_of(options: dict[str, Any], *, in_graph: bool) -> TrainingState:
    loss = options.get("loss", {})
    state = build_state(tiny_network(num_classes=3 + ("class_loss" in loss)), **options)
    state.criterion = Criterion(GRID, 3, **loss)
    state.graph = StepGraph(state.network) if in_graph else None
    return state


def losses_of(state: TrainingState, given: list[Batch]) -> list[list[float]]:
    progress = TrainingProgress()
    assert list(train_one_epoch(state, given, progress)) == []
    return progress.losses


def background_pass(
    logits: Tensor, gradient: Tensor, background: Tensor, image_weights: Tensor, *, gamma: float
) -> Tensor:
    """As the kernel of a GPU, which reads no number: the pass of a CPU chooses its way by the largest logit."""
    value, slope = focal_background(wide(logits), gamma)
    weight = image_weights[:, None] * background.repeat(logits.shape[1] // len(background))  # [N, C*K]
    gradient.copy_(slope * weight[:, :, None, None])
    return (value * weight[:, :, None, None]).sum(dtype=torch.float64)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tape.CUDAGraph]:
    """Recordings on the CPU, as on a GPU."""
    made: list[tape.CUDAGraph] = []

    def make() -> tape.CUDAGraph:
        made.append(tape.CUDAGraph())
        return made[-1]

    monkeypatch.setattr(graph, "is_recorded_on", lambda device: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", tape.graph)
    monkeypatch.setattr(maps, "_find_background_pass", lambda logits: background_pass)
    monkeypatch.setattr(maps, "_graph_is_kept", lambda: True)  # otherwise a CPU reads the incoming gradient
    return made


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_replayed_steps_train_like_others(
    options: dict[str, Any], generator: torch.Generator, recorded: list[tape.CUDAGraph]
) -> None:
    given = batches(generator)
    plain, replayed = state_of(options, in_graph=False), state_of(options, in_graph=True)
    expected, found = losses_of(plain, given), losses_of(replayed, given)
    assert len(recorded) == 1 and replayed.graph is not None
    assert replayed.graph.replays == len(given) - WARM_UP
    tolerance = 1e-2 if "precision" in options else 1e-5
    assert_close(torch.tensor(found), torch.tensor(expected), rtol=tolerance, atol=1e-6)
    if "precision" not in options:
        assert_close(
            replayed.inference_network.state_dict(), plain.inference_network.state_dict(), rtol=1e-3, atol=1e-5
        )


def test_batch_with_more_foreground_is_recorded_anew(
    generator: torch.Generator, recorded: list[tape.CUDAGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_shapes, "SMALLEST", 1)
    monkeypatch.setattr(graph, "WARM_UP", 1)
    given = batches(generator)
    given = [given[4], given[1], given[4], given[0], given[1], given[2]]
    plain, replayed = state_of({}, in_graph=False), state_of({}, in_graph=True)
    expected, found = losses_of(plain, given), losses_of(replayed, given)
    assert len(recorded) == 2 and replayed.graph is not None and 3 <= replayed.graph.replays <= 4
    assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_recording_reads_no_memory_that_may_be_freed(
    generator: torch.Generator, recorded: list[tape.CUDAGraph]
) -> None:
    state = state_of({"precision": "bf16", "ema_decay": 0.9}, in_graph=True)
    losses_of(state, batches(generator)[:5])
    assert state.graph is not None
    held = [*state.network.parameters(), *state.network.buffers(), *state.graph.inputs, state.criterion.class_alpha]
    held += [
        *model._scale_and_shift(tuple(MEAN), tuple(STD), CPU),
        *boxes._constants((0,) * 4, (1,) * 4, torch.float32, CPU),
    ]
    assert recorded[0].outside() <= {tensor.untyped_storage().data_ptr() for tensor in held}


class Stream(TorchDispatchMode):
    """Notes the operations on a device with the shapes of their tensors, and copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, list[torch.Size]]] = []
        self.blocking: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.device == META for tensor in tensors):
            self.operations.append((str(func), [tensor.shape for tensor in tensors]))
            if str(func).startswith("aten.copy_") and args[1].device.type == "cpu":
                self.blocking.append(not (args[2] if len(args) > 2 else (kwargs or {}).get("non_blocking")))
        return result


@pytest.mark.parametrize("variant", ["default", "ciou", "no alpha, gamma .5"])
def test_every_batch_has_the_same_operations_and_shapes(
    variant: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The meta device refuses whatever needs a value.
    monkeypatch.setattr(StepLog, "flush", lambda self: None)
    state = build_meta_state(VARIANTS[variant], clip_grad_norm=1.0)
    state.graph = StepGraph(state.network)
    streams = []
    for batch in batches(generator)[:4]:
        with Stream() as stream:
            assert list(train_one_epoch(state, [batch], TrainingProgress())) == []
        streams.append(stream)
    assert all(stream.operations == streams[-1].operations for stream in streams[1:])
    # Images, their sizes and eight tensors of the assignment; the normaliser comes with the requests.
    assert [stream.blocking for stream in streams[1:]] == [[False] * 10] * 3


def test_passes_mix_no_devices(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fake CUDA tensors: an operation on tensors of two devices raises. torch's backward pass needs a real device.
    monkeypatch.setattr(Tensor, "backward", lambda losses: None)
    monkeypatch.setattr(graph, "pinned", lambda values: values)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(maps, "uses_kernel", lambda device: False)
    monkeypatch.setattr(graph, "WARM_UP", 9)
    parts = [list(split_batch(batch, 2)) for batch in batches(generator)[:2]]
    criterion = Criterion(GRID, 3)
    assignments = [[assign_targets(criterion, part) for part in step] for step in parts]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        state = build_state(tiny_network())
        state.criterion, state.device = criterion, torch.device("cuda")
        state.graph = StepGraph(state.network)
        for step, assigned in zip(parts, assignments, strict=True):
            losses = compute_gradients_in_graph(state, step, assigned, torch.ones(()))
    assert losses.device.type == "cuda" and losses.shape == (2,)
