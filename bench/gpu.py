"""Training and detection on a GPU beside torchvision's RetinaNet: images/s, memory, and what the card gives.

python -m bench.gpu                       # ResNet-50, 800x1344, batch 16, bf16; --batch 8 for less memory
python -m bench.gpu --device cpu --tiny   # shows in a minute that it works; its figures mean nothing

First the laws of bench.gpu_checks, then the figures. It needs torch and torchvision and nothing of the pipeline. All
contenders have equal weights, the same pixels and the same boxes; torchvision's are spared its own resizing. What a
contender cannot do is told in its row.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from math import nan
from statistics import median
from typing import Any, NamedTuple

import torch
import torchvision
from torch.utils import benchmark
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from bench.gpu_checks import run_checks
from bench.network import (
    CANDIDATES,
    NUM_CLASSES,
    Contender,
    build_contenders,
    build_state,
    convolve,
    detect,
    made_up_batch,
    prepare,
    shift_scores,
    train_step,
)
from bench.peer import torchvision_detect, torchvision_losses, torchvision_maps
from bench.ratios import table
from retinanet.anchors.grid import build_grid
from retinanet.data.dataset import Batch, copy_to
from retinanet.inference.postprocess import Postprocess
from retinanet.network.model import RetinaNet
from retinanet.network.precision import autocast, convolving_float32
from retinanet.training.graph import StepGraph

LAYOUTS = {"": torch.contiguous_format, ", channels_last": torch.channels_last}
COLUMNS = [
    "training",
    "images/s",
    "ms a step",
    "of it convolutions",
    "extra peak memory, GiB",
    "TFLOP/s",
    "of the matmul",
]


class Setting(NamedTuple):
    """What is measured, and how often.

    Attributes:
        size: height and width of the images, px.
        steps: timed together, so that the device is waited for once.
        compiler: torch.compile's backend.
    """

    device: torch.device
    precision: str
    backbone: str
    batch: int
    size: tuple[int, int]
    steps: int
    warmup: int
    rounds: int
    matmul: int
    compiler: str


class Trainer(NamedTuple):
    """A contender of the training: a whole step, and its convolutions alone."""

    step: Callable[[], Any]
    convolutions: Callable[[], Any]


def read_setting() -> Setting:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=10, help="timed together")
    parser.add_argument("--rounds", type=int, default=5, help="in each every contender has its turn")
    parser.add_argument("--tiny", action="store_true", help="small networks and images, compiled without code")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --tiny shows that the bench works")
    if chosen.tiny:
        precision = chosen.precision if device.type == "cuda" else "fp32"  # few CPUs have instructions for bf16
        return Setting(device, precision, "resnet18", 2, (64, 64), 1, 1, 1, 256, "eager")
    size = (chosen.size[0], chosen.size[1])
    counts = (chosen.steps, 5, chosen.rounds)
    return Setting(device, chosen.precision, chosen.backbone, chosen.batch, size, *counts, 8192, "inductor")


# ---- contenders ----


def build_pair(setting: Setting) -> tuple[Contender, Contender]:
    """Ours and torchvision's, with equal weights, on the device."""
    pair = build_contenders(setting.backbone)
    for contender in pair:
        contender.network.to(setting.device)
    return pair


def build_batch(setting: Setting, count: int) -> Batch:
    """Pixels on the device; boxes on the CPU, where targets are assigned."""
    batch = made_up_batch((count, 3, *setting.size))
    return batch._replace(images=copy_to(batch.images, setting.device))


def build_our_trainer(setting: Setting, compiled: bool, in_graph: bool = False) -> Trainer:
    """As pipeline.fit builds it: channels_last; compiled, and in a CUDA graph, where it is asked for."""
    assert setting.device.type == "cuda" or not in_graph, "skipped, since a CUDA graph needs a GPU"
    contender, _ = build_pair(setting)
    network, batch = contender.network.train(), build_batch(setting, setting.batch)
    assert isinstance(network, RetinaNet)
    if compiled:
        network.compile(backend=setting.compiler)
    state = build_state(network, setting.precision, setting.device)
    state.graph = StepGraph(network) if in_graph else None
    images = prepare(batch, network)
    return Trainer(partial(train_step, state, batch), partial(convolve, contender, images, setting.precision))


def build_torchvision_trainer(setting: Setting, layout: torch.memory_format, compiled: bool) -> Trainer:
    """Its own forward pass in training without its transform, its own losses, and the optimiser of ours."""
    _, contender = build_pair(setting)
    network, batch = contender.network.train().to(memory_format=layout), build_batch(setting, setting.batch)
    assert isinstance(network, TorchvisionRetinaNet)
    if compiled:
        network.backbone.compile(backend=setting.compiler)
        network.head.compile(backend=setting.compiler)
        alone = torch.compile(lambda images: torchvision_maps(network, images), backend=setting.compiler)
        contender = contender._replace(maps=alone)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)
    targets = [
        {"boxes": boxes.to(setting.device), "labels": labels.to(setting.device)} for boxes, labels in batch.truths()
    ]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        images = prepare(batch, network)
        with autocast(setting.device, setting.precision):
            losses = torchvision_losses(network, images, targets)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()

    return Trainer(step, partial(convolve, contender, prepare(batch, network), setting.precision))


def trainers(setting: Setting) -> dict[str, Callable[[], Trainer]]:
    """All contenders of the training, not yet built."""
    found: dict[str, Callable[[], Trainer]] = {}
    for graph, compiled in product((False, True), repeat=2):
        name = f"ours{', compiled' * compiled}{', CUDA graph' * graph}"
        found[name] = partial(build_our_trainer, setting, compiled, graph)
    for compiled, (name, layout) in product((False, True), LAYOUTS.items()):
        name = f"torchvision{name}{', compiled' * compiled}"
        found[name] = partial(build_torchvision_trainer, setting, layout, compiled)
    return found


# ---- measuring ----


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Wall seconds of one run; the device is waited for before and after all of them."""
    start = benchmark.timer()
    for _ in range(repeats):
        run()
    return (benchmark.timer() - start) / repeats


def attempt(what: Callable[[], Any]) -> Any:
    """What it returns, or in a short sentence why it did not."""
    try:
        return what()
    except Exception as error:  # noqa: BLE001  # a compiler may raise anything, and the others' turn comes all the same
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:60]}"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def warm_up(build: Callable[[], Trainer], setting: Setting) -> Trainer:
    """A contender that has compiled what it compiles, and chosen its kernels."""
    trainer = build()
    for run in trainer:
        seconds(run, setting.warmup)
    return trainer


def extra_peak(run: Callable[[], Any], device: torch.device) -> float:
    """GiB that one run takes at its peak beyond what is taken before (a CUDA graph none); 0 where torch counts none."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30


def count_flops(setting: Setting) -> int:
    """Of the convolutions of one step, forward and backward, as torch counts them."""
    trainer = build_our_trainer(setting, compiled=False)
    with FlopCounterMode(display=False) as counter:
        trainer.convolutions()
    return counter.get_total_flops()


def matmul_rate(setting: Setting) -> float:
    """FLOP/s of a large square matrix product in the precision of the convolutions."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting.precision]
    a, b = (torch.randn(setting.matmul, setting.matmul, device=setting.device, dtype=dtype) for _ in range(2))
    seconds(partial(torch.mm, a, b), 3)
    return (
        2 * setting.matmul**3 / median(seconds(partial(torch.mm, a, b), setting.steps) for _ in range(setting.rounds))
    )


def compare_trainings(setting: Setting, flops: int, rate: float) -> str:
    """All contenders in turns; a table, and ours beside the best of torchvision's."""
    built = {name: attempt(partial(warm_up, build, setting)) for name, build in trainers(setting).items()}
    ready = {name: trainer for name, trainer in built.items() if isinstance(trainer, Trainer)}
    rounds = [
        {name: [seconds(run, setting.steps) for run in trainer] for name, trainer in ready.items()}
        for _ in range(setting.rounds)
    ]
    times = {name: [median(turn[name][i] for turn in rounds) for i in (0, 1)] for name in ready}
    peaks = {name: extra_peak(ready[name].step, setting.device) for name in ready if "graph" not in name}
    rows = []
    for name, (step, convolutions) in times.items():
        rates = (flops / step / 1e12, flops / step / rate)
        figures = (setting.batch / step, 1e3 * step, convolutions / step, peaks.get(name, nan), *rates)
        rows.append([name, *(f"{figure:.4g}" for figure in figures)])
    rows += [[name, str(reason), *[""] * 5] for name, reason in built.items() if name not in ready]
    return f"{table(COLUMNS, rows)}\n\n{verdict({name: step for name, (step, _) in times.items()}, peaks)}"


def verdict(steps: Mapping[str, float], peaks: Mapping[str, float]) -> str:
    """Ours beside torchvision's, each at its fastest."""
    ours, theirs = (
        min((name for name in steps if name.startswith(kind)), key=lambda name: steps[name], default=None)
        for kind in ("ours", "torchvision")
    )
    if ours is None or theirs is None:
        return "No pair to compare."
    memory = f", with {peaks[ours] / peaks[theirs]:.2f} of its memory" if peaks.get(theirs) and ours in peaks else ""
    return f"{ours} trains {steps[theirs] / steps[ours]:.2f} times the images/s of {theirs}{memory}."


def compare_detections(setting: Setting, count: int) -> list[str]:
    """A row: pixels to detections of a batch, ours and torchvision's in turns, in images/s."""
    ours, theirs = build_pair(setting)
    assert isinstance(ours.network, RetinaNet) and isinstance(theirs.network, TorchvisionRetinaNet)
    batch = build_batch(setting, count)
    shift_scores(ours.network.eval(), prepare(batch, ours.network), CANDIDATES * count)
    theirs.network.load_state_dict(
        {"head.classification_head.cls_logits.bias": ours.network.class_head.output.bias}, strict=False
    )
    theirs.network.eval().to(memory_format=torch.channels_last)
    runs = {
        "ours": partial(detect, ours.network, Postprocess(build_grid(), NUM_CLASSES), batch, setting.device),
        "torchvision": lambda: torchvision_detect(theirs.network, prepare(batch, theirs.network)),
    }
    with autocast(setting.device, setting.precision):
        for run in runs.values():
            seconds(run, setting.warmup)
        rounds = [{name: seconds(run, setting.steps) for name, run in runs.items()} for _ in range(setting.rounds)]
    ours_rate, rate = (count / median(turn[name] for turn in rounds) for name in runs)
    return [str(count), f"{ours_rate:.1f}", f"{rate:.1f}", f"{ours_rate / rate:.2f}"]


def main() -> None:
    """Check, measure, and print."""
    setting = read_setting()
    run_checks(setting.device)
    print(flush=True)
    with convolving_float32():  # as ours does by itself, so that the others are not in TF32 beside it
        measure(setting)


def measure(setting: Setting) -> None:
    """Every figure of a setting."""
    name = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else str(setting.device)
    print(f"{name}, torch {torch.__version__}, torchvision {torchvision.__version__}, {setting}\n", flush=True)
    rate, flops = matmul_rate(setting), count_flops(setting)
    print(f"Matrix product: {rate / 1e12:.2f} TFLOP/s. Convolutions of a step: {flops / 1e12:.3f} TFLOP.\n", flush=True)
    print(compare_trainings(setting, flops, rate), flush=True)
    rows = [attempt(partial(compare_detections, setting, count)) for count in dict.fromkeys((1, setting.batch))]
    rows = [row if isinstance(row, list) else [row, "", "", ""] for row in rows]
    print(f"\n{table(['detection, batch', 'ours, images/s', 'torchvision, channels_last', 'ratio'], rows)}")


if __name__ == "__main__":
    main()
