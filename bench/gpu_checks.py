"""What must hold on a device, each law as a function that raises AssertionError: the first thing to run on a new GPU.

    python -m bench.gpu_checks [--device cuda]

It needs torch and torchvision alone. With `--device cpu` it compares the CPU with itself, which shows that the checks
run; tests/gpu/test_device.py runs them with pytest. bench.gpu begins with them.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from bench.network import made_up_batch
from retinanet.anchors.grid import build_grid
from retinanet.data.dataset import Batch
from retinanet.inference.postprocess import Postprocess
from retinanet.losses import sparse_sigmoid_focal_loss
from retinanet.losses.criterion import Criterion
from retinanet.network.model import RetinaNet, build_model
from retinanet.network.precision import convolving_float32
from retinanet.network.predictions import Predictions
from retinanet.training.determinism import set_deterministic
from retinanet.training.engine import train_one_epoch
from retinanet.training.graph import WARM_UP, StepGraph
from retinanet.training.optim import construct_ema, construct_optimizer
from retinanet.training.progress import TrainingProgress
from retinanet.training.state import TrainingState

NUM_CLASSES, SIZE, BATCH = 5, (96, 128), 3
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
GRID = build_grid(base_scale=2.0)
CPU = torch.device("cpu")


def build_network(norm: str = "group") -> RetinaNet:
    """The same small network every time, on the CPU."""
    torch.manual_seed(0)
    options = {"fpn_channels": 32, "head_channels": 32, "head_depth": 2, "prior": 0.05}
    return build_model(num_logits=NUM_CLASSES, backbone="resnet18", norm=norm, **options)  # type: ignore[arg-type]


def build_state(device: torch.device, precision: str = "fp32", **options: object) -> TrainingState:
    """A training of that network on a device."""
    network = build_network().to(device).to(memory_format=torch.channels_last)
    optimizer = construct_optimizer(network, lr=0.05)
    criterion, schedule = Criterion(GRID, NUM_CLASSES), LambdaLR(optimizer, lambda step: 1.0)
    options = {"clip_grad_norm": 10.0, "ema": construct_ema(network, 0.99), **options}
    return TrainingState(network, criterion, optimizer, schedule, MEAN, STD, device, precision, **options)  # type: ignore[arg-type]


def batches(count: int) -> list[Batch]:
    """Noise with boxes, on the CPU; every batch has other labels."""
    batch = made_up_batch((BATCH, 3, *SIZE))
    labels = [torch.randint(0, NUM_CLASSES, batch.labels.shape, generator=seeded(i)) for i in range(count)]
    return [batch._replace(labels=own) for own in labels]


def steps_on(device: torch.device) -> int:
    """20 on a GPU; on a CPU, where the checks only show that they run, 3."""
    return 20 if device.type == "cuda" else 3


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def train(state: TrainingState, given: list[Batch]) -> list[float]:
    """The loss of every step."""
    progress = TrainingProgress()
    for _ in train_one_epoch(state, given, progress):
        pass
    return [sum(losses) for losses in progress.losses]


def assert_close(one: list[float], other: list[float], tolerance: float) -> None:
    """Relative difference of each pair."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))
    assert worst <= tolerance, f"relative difference {worst:.2e}, expected at most {tolerance:.0e}"


# ---- the laws ----


def check_curve(device: torch.device) -> None:
    """20 steps in IEEE float32 have the losses of the CPU."""
    given = batches(steps_on(device))
    assert_close(train(build_state(device), given), train(build_state(CPU), given), 1e-3)


def check_half_precision(device: torch.device) -> None:
    """20 steps in bf16 and, on a GPU, in fp16 stay near those in float32 and finite."""
    given = batches(steps_on(device))
    expected = train(build_state(device), given)
    for precision in ("bf16", "fp16") if device.type == "cuda" else ("bf16",):
        assert_close(train(build_state(device, precision), given), expected, 0.05)


def check_micro_batches(device: torch.device) -> None:
    """Accumulated gradients train as a whole batch."""
    given = batches(3)
    assert_close(train(build_state(device, images_per_step=1), given), train(build_state(device), given), 1e-3)


def check_no_waits(device: torch.device) -> None:
    """A step neither reads from the device nor copies with a wait (torch.cuda.set_sync_debug_mode)."""
    state = build_state(device)
    train(state, batches(2))  # constants are copied, kernels are chosen
    with waits_are_errors(device) as allowed:

        def watched() -> Iterator[Batch]:
            yield from batches(6)
            allowed()  # the end of the epoch reads the losses

        train(state, list_lazily(watched()))


def list_lazily(given: Iterator[Batch]) -> list[Batch]:
    """An iterator where a list is declared: the engine iterates over it once."""
    return given  # type: ignore[return-value]


@contextmanager
def waits_are_errors(device: torch.device) -> Iterator[Callable[[], None]]:
    """Until the function that is yielded is called, or the body ends."""
    if device.type != "cuda":
        yield lambda: None
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield lambda: torch.cuda.set_sync_debug_mode("default")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_graph(device: torch.device) -> None:
    """20 steps in a CUDA graph have the losses of steps without; on a CPU nothing is recorded."""
    given = batches(steps_on(device) + WARM_UP)
    for options in ({}, {"images_per_step": 2}):
        state = build_state(device, **options)
        state.graph = StepGraph(state.network)
        assert_close(train(state, given), train(build_state(device, **options), given), 1e-3)
        assert state.graph.replays == (steps_on(device) if device.type == "cuda" else 0)


def check_resume(device: torch.device) -> None:
    """With deterministic algorithms a training that is resumed from its state goes on to the bit."""
    given = batches(8)
    set_deterministic(True)
    try:
        straight = build_state(device)
        expected = train(straight, given)
        first = build_state(device)
        begun = train(first, given[:4])
        second = build_state(device)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert begun + train(second, given[4:]) == expected
        pairs = zip(straight.network.parameters(), second.network.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    finally:
        set_deterministic(False)


def check_focal_loss(device: torch.device) -> None:
    """The fused loss has the value and the gradient of float64 on the CPU, in every type and layout."""
    shape, generator = (2, 3 * NUM_CLASSES, 12, 20), seeded(5)
    logits = torch.randn(shape, generator=generator) * 6
    where = tuple(torch.randint(0, size, (9,), generator=generator) for size in shape)
    ignored = tuple(torch.randint(0, size, (7,), generator=generator) for size in (2, 3, 12, 20))
    weights = torch.tensor([0.5, 2.0])
    alpha = torch.linspace(0.1, 0.9, NUM_CLASSES)
    for gamma in (0.0, 2.0, 1.5):
        for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
            rounded = logits.to(dtype)
            expected = focal_loss(rounded.double(), where, ignored, alpha.double(), gamma, weights.double())
            for layout in (torch.contiguous_format, torch.channels_last):
                given = rounded.to(device).contiguous(memory_format=layout)
                on = [tuple(index.to(device) for index in group) for group in (where, ignored)]
                found = focal_loss(given, *on, alpha.to(device), gamma, weights.to(device))
                for own, reference in zip(found, expected, strict=True):
                    torch.testing.assert_close(own.cpu().double(), reference, rtol=tolerance, atol=tolerance)


def focal_loss(
    logits: Tensor, where: tuple[Tensor, ...], ignored: tuple[Tensor, ...], alpha: Tensor, gamma: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    logits = logits.detach().requires_grad_()
    value = sparse_sigmoid_focal_loss(
        logits,
        where,
        ignored,
        class_alpha=alpha,
        gamma=gamma,
        image_weights=weights,  # type: ignore[arg-type]
    )
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def check_detections(device: torch.device) -> None:
    """Equal predictions give the detections of the CPU: equal classes, boxes to .01 px, scores to 1e-5."""
    network, batch = build_network().eval(), batches(1)[0]
    with torch.no_grad():
        predictions = network(batch.images.float() / 255 - 0.5)
    postprocess = Postprocess(GRID, NUM_CLASSES, score_threshold=0.01)
    moved = Predictions(*([level.to(device) for level in levels] for levels in predictions))
    ours = postprocess(moved, batch.image_sizes.to(device), batch.padded_size)
    for found, expected in zip(ours, postprocess(predictions, batch.image_sizes, batch.padded_size), strict=True):
        assert torch.equal(found.labels.cpu(), expected.labels) and len(expected.labels) > 10
        torch.testing.assert_close(found.boxes.cpu(), expected.boxes, rtol=0, atol=0.01)
        torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=1e-5)


def check_maps(device: torch.device) -> None:
    """The network's maps are those of the CPU, in both layouts and with frozen norms."""
    images = torch.randn(2, 3, *SIZE, generator=seeded(3))
    for norm in ("group", "frozen_batch"):
        network = build_network(norm).eval()
        with torch.no_grad():
            expected = network(images)
            network.to(device)
            for layout in (torch.contiguous_format, torch.channels_last):
                network.to(memory_format=layout)
                found = network(images.to(device).contiguous(memory_format=layout))
                for own, reference in zip(found, expected, strict=True):
                    for level, other in zip(own, reference, strict=True):
                        torch.testing.assert_close(level.cpu(), other, rtol=1e-3, atol=1e-3)


def check_collectives(device: torch.device) -> None:
    """A step under DistributedDataParallel of one process (NCCL on a GPU) has the losses of a step without."""
    given = batches(5)
    expected = train(build_state(device), given)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        try:
            state = build_state(device)
            ids = [torch.cuda.current_device()] if device.type == "cuda" else None
            state.model = DistributedDataParallel(state.model, device_ids=ids, gradient_as_bucket_view=True)
            assert_close(train(state, given), expected, 1e-3)
        finally:
            dist.destroy_process_group()


def find_checks() -> dict[str, Callable[[torch.device], None]]:
    """The laws of this module and of gpu_training_checks, which needs this one, by name."""
    from bench import gpu_training_checks

    functions = list(globals().items()) + list(vars(gpu_training_checks).items())
    return {name.removeprefix("check_"): function for name, function in functions if name.startswith("check_")}


def run_checks(device: torch.device) -> bool:
    """Print a line per law; whether all hold."""
    held = []
    for name, check in find_checks().items():
        begun = time.perf_counter()
        try:
            with convolving_float32():
                check(device)
            outcome = "holds"
        except Exception as error:  # noqa: BLE001  # the other laws have their turn all the same
            outcome = f"FAILS: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        held.append(outcome == "holds")
        law = (check.__doc__ or "").partition("\n")[0]
        print(f"{name:16} {outcome} ({time.perf_counter() - begun:.1f} s): {law}", flush=True)
    return all(held)


def main() -> None:
    """Run all checks; exit status 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    # cuBLAS reads it when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    raise SystemExit(not run_checks(torch.device(parser.parse_args().device)))


if __name__ == "__main__":
    main()
