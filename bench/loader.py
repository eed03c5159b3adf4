"""From JPEG files to a batch: ours beside torchvision's v2 transforms, in one process without loader workers.

Pictures of 640 x 480 px to a short side of 800 px, mirrored at random. Ours ends with a padded uint8 batch, which is
normalised on the device that trains; with "normalised" it ends as floats on the CPU, as torchvision's does.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import benchmark
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from bench.ratios import Case, run_bench
from retinanet.data.dataset import TrainingBatches
from retinanet.data.splits import Split
from retinanet.data.transforms import Transforms
from retinanet.network.model import normalise_images

NUM_IMAGES, QUALITY = 16, 85
SIZE, SHORT_SIDE, RESIZED = (480, 640), 800, (800, 1067)  # px
PHOTOGRAPH, NUM_PHOTOGRAPHS = (3000, 4000), 4
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_pictures(folder: Path, size: tuple[int, int] = SIZE, count: int = NUM_IMAGES) -> list[Path]:
    """Coarse colours with some noise; at 640 x 480 px a file has about 70 kB, as those of COCO."""
    rng, (height, width) = np.random.default_rng(0), size
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        noisy = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=QUALITY)
    return paths


def build_batches(
    paths: list[Path], size: tuple[int, int] = SIZE, short_side: int = SHORT_SIDE, *, scaled_decoding: bool = False
) -> TrainingBatches:
    """An epoch of one batch."""
    images = [
        {"id": number, "file_name": path.name, "height": size[0], "width": size[1]} for number, path in enumerate(paths)
    ]
    truths = [
        {"image_id": image["id"], "category_id": 1, "bbox": [10 * place, 20, 60, 80], "iscrowd": 0}
        for image in images
        for place in range(7)
    ]
    categories = [{"id": 1, "name": "thing"}]
    content: dict[str, Any] = {"images": images, "annotations": truths, "categories": categories}
    split = Split(content, root=str(paths[0].parent))
    transforms = Transforms(short_side, 5 * short_side // 3, scaled_decoding=scaled_decoding)
    return TrainingBatches(split, transforms, batch_size=len(paths), seed=0, epoch=0)


def load_normalised(batches: TrainingBatches) -> Tensor:
    """Ours, with the step that is the device's done here too."""
    return normalise_images(batches[0].images, MEAN, STD)


def load_by_v2(paths: list[Path], transforms: v2.Compose) -> list[Tensor]:
    """Images alone: neither boxes nor a batch."""
    return [transforms(decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)) for path in paths]


def batch_by_v2(paths: list[Path], transforms: v2.Compose) -> Tensor:
    """The same put into one batch, as torchvision's detectors do it."""
    images = load_by_v2(paths, transforms)
    height, width = (max(-(-image.shape[side] // 32) * 32 for image in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]].copy_(image)
    return batch


def check_equal(batches: TrainingBatches, paths: list[Path], transforms: v2.Compose) -> None:
    """The same pixels, mirrored or not, or this bench says nothing."""
    batch = batches[0]
    image = transforms(decode_jpeg(read_file(str(paths[batch.image_ids[0]])), mode=ImageReadMode.RGB))
    height, width = batch.image_sizes[0].tolist()
    ours = normalise_images(batch.images, MEAN, STD)[0, :, :height, :width]
    assert min((ours - other).abs().max().item() for other in (image, image.flip(2))) < 1e-5


def folder() -> Path:
    """Removed at the end."""
    made = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, made)
    return made


def cases() -> Iterable[Case]:
    """A batch as training takes it, and one that is normalised on the CPU."""
    warnings.filterwarnings("ignore", "The image decoding and encoding capabilities", DeprecationWarning)
    transforms = v2.Compose(
        [
            v2.Resize(RESIZED, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    paths = write_pictures(folder())
    batches = build_batches(paths)
    check_equal(batches, paths, transforms)
    peers = {
        "torchvision v2": partial(load_by_v2, paths, transforms),
        "torchvision v2, batched": partial(batch_by_v2, paths, transforms),
    }
    yield Case(f"{NUM_IMAGES} images, uint8 batch", partial(batches.__getitem__, 0), peers)
    yield Case(f"{NUM_IMAGES} images, normalised", partial(load_normalised, batches), peers)
    yield photographs(transforms)


def photographs(transforms: v2.Compose) -> Case:
    """Pictures of a camera, decoded at the size that the network sees, beside decoding them whole."""
    paths = write_pictures(folder(), PHOTOGRAPH, NUM_PHOTOGRAPHS)
    whole = build_batches(paths, PHOTOGRAPH)
    peers = {"decoded whole": partial(whole.__getitem__, 0), "torchvision v2": partial(load_by_v2, paths, transforms)}
    scaled = build_batches(paths, PHOTOGRAPH, scaled_decoding=True)
    return Case(f"{NUM_PHOTOGRAPHS} images of 12 megapixels, uint8 batch", partial(scaled.__getitem__, 0), peers)


def growth() -> dict[str, list[tuple[float, float]]]:
    """(megapixels of the batch's images, milliseconds) of ours; files have .6 of the side that is asked for."""
    pairs = []
    for short_side in (200, 400, 800, 1200, 1600):
        size = (6 * short_side // 10, 8 * short_side // 10)
        batches = build_batches(write_pictures(folder(), size), size, short_side)
        cost = benchmark.Timer("run()", globals={"run": partial(batches.__getitem__, 0)}).blocked_autorange().median
        pairs.append((NUM_IMAGES * short_side * short_side * 4 / 3 / 1e6, 1e3 * cost))
    return {"megapixels": pairs}


if __name__ == "__main__":
    run_bench("Loading beside torchvision's v2 transforms", cases)
