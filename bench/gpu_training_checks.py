"""What must hold of a whole training on a device: picture files and several workers, as laws like in gpu_checks.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from bench.gpu_checks import CPU, GRID, MEAN, NUM_CLASSES, STD, assert_close, batches, build_state, seeded, train
from retinanet.data.dataset import EvaluationBatches, TrainingBatches, split_batch
from retinanet.data.splits import Split
from retinanet.data.transforms import Transforms
from retinanet.inference.postprocess import Postprocess
from retinanet.inference.predict import predict
from retinanet.network.precision import convolving_float32
from retinanet.training.loading import AssignedSteps, TrainingLoader

PICTURES, EPOCHS, STEPS = 12, 2, 4
TRANSFORMS = Transforms(short_side=[96, 128], long_side=192, scale_jitter=(0.8, 1.25), brightness=0.2)


def check_pictures(device: torch.device) -> None:
    """Two epochs on picture files, read by processes, have the losses of the CPU; all pictures have detections."""
    with tempfile.TemporaryDirectory() as folder:
        split = draw_split(Path(folder))
        losses, network = train_on_pictures(split, device, processes=2)
        expected, _ = train_on_pictures(split, CPU, processes=0)
        assert_close(losses, expected, 1e-3)
        postprocess = Postprocess(GRID, NUM_CLASSES, score_threshold=0.0)
        shown = EvaluationBatches(split, TRANSFORMS, batch_size=3)
        given = (shown[i] for i in range(len(shown)))
        found = list(predict(network, postprocess, given, mean=MEAN, std=STD, device=device))
    assert sorted(one.image_id for one in found) == list(range(PICTURES))
    for one in found:
        left, top, right, bottom = one.window
        boxes = one.detections.boxes
        assert len(boxes) > 0 and bool((boxes >= 0).all())
        assert bool((boxes <= torch.tensor([right - left, bottom - top] * 2)).all())


def draw_split(folder: Path) -> Split:
    """Noise with one bright square each, landscape and portrait, as PNG files."""
    images, annotations = [], []
    for i in range(PICTURES):
        height, width = (96, 128) if i % 2 else (160, 120)
        pixels = torch.randint(0, 128, (3, height, width), generator=seeded(i), dtype=torch.uint8)
        x, y, side = 8 + 3 * i, 10 + 2 * i, 24 + 2 * i
        pixels[i % 3, y : y + side, x : x + side] = 255
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 3, **box})
    categories = [{"id": 1 + k, "name": str(k)} for k in range(NUM_CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return Split({"info": {"root": str(folder)}, **content})


def train_on_pictures(split: Split, device: torch.device, *, processes: int) -> tuple[list[float], Any]:
    """The loss of every step, and the network."""
    state = build_state(device)
    of_epoch = partial(epoch_batches, split)
    steps = AssignedSteps(of_epoch, state.criterion, state.images_per_step)
    loader = TrainingLoader(steps, steps=len(of_epoch(0)), processes=processes, device=device)
    given: Iterator[Any] = chain.from_iterable(loader(epoch, 0) for epoch in range(EPOCHS))
    return train(state, given), state.network  # type: ignore[arg-type]


def epoch_batches(split: Split, epoch: int) -> TrainingBatches:
    """Batches of three."""
    return TrainingBatches(split, TRANSFORMS, batch_size=3, seed=1, epoch=epoch)


def check_processes(device: torch.device) -> None:
    """Two processes train as one: NCCL where each has a GPU of its own, otherwise Gloo, also from one GPU."""
    given = batches(STEPS)
    expected = train(build_state(device), given)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train_share, (folder, device.type), nprocs=2)
        shares = [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2)]
    assert shares[0] == shares[1]
    assert_close(shares[0], expected, 1e-3)


def train_share(rank: int, folder: str, device_type: str) -> None:
    """One of the two processes; writes the losses of the global batches."""
    num_gpus = torch.cuda.device_count() if device_type == "cuda" else 0
    device = torch.device(device_type, rank % num_gpus) if num_gpus else CPU
    if num_gpus:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    # NCCL refuses two processes on one GPU.
    backend = "nccl" if num_gpus > 1 else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        state = build_state(device)
        ids = [device.index] if num_gpus else None
        state.model = DistributedDataParallel(state.model, device_ids=ids, gradient_as_bucket_view=True)
        shares = [list(split_batch(batch, 2))[rank] for batch in batches(STEPS)]  # of three images: two and one
        with convolving_float32():
            losses = train(state, shares)
        torch.save(losses, Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()
