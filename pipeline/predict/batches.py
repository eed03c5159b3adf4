"""Batches of pictures without ground truth; a picture that cannot be read is reported, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.storage.stores import is_transient, retry
from retinanet.data.dataset import Batch, pack
from retinanet.data.pictures import decode, read_bytes
from retinanet.data.records import Record
from retinanet.data.tiles import cut_record
from retinanet.data.transforms import Transforms

PICTURES_PER_READ = 16
IMAGES_PER_BATCH = 8
# Of a batch on a CPU, with padding. Below that, 4 to 8 images take 20 to 30 % less CPU time than one by one; above, a
# batch gains nothing (docs/log.md).
PIXELS_ON_CPU = 2**18


class Failure(NamedTuple):
    """A picture that could not be read.

    Attributes:
        place: in the list.
        may_heal: its store did not answer, and may later.
    """

    place: int
    reason: str
    may_heal: bool = False


class Shown(NamedTuple):
    """A picture, or a part of it, as the network sees it.

    Attributes:
        image: [3, H, W] uint8, resized.
        padded_size: H, W with the padding that it has alone.
    """

    image: Tensor
    record: Record
    padded_size: tuple[int, int]


class Read(NamedTuple):
    """What was read of some pictures.

    Attributes:
        batches: image ids are the places of the pictures in the list; all tiles of a picture follow each other.
        failures: the pictures that could not be read.
    """

    batches: list[Batch]
    failures: list[Failure]


class PictureBatches(Dataset[Read]):
    """Pictures at paths or URLs, resized as in the evaluation; an item are the batches of 16 pictures in sequence.

    A batch holds images of one padded size, so each is padded as `Detector` pads it alone, and its detections do not
    depend on the others. Where the transforms have tiles, an item are the tiles of one picture.

    Args:
        on_cpu: the network runs on a CPU, where batches of large images gain nothing.
    """

    def __init__(self, locations: Sequence[str], transforms: Transforms, *, on_cpu: bool) -> None:
        self.locations, self.transforms, self.on_cpu = list(locations), transforms, on_cpu
        self.pictures_per_read = PICTURES_PER_READ if transforms.tiles is None else 1

    def __len__(self) -> int:
        """Number of items."""
        return -(-len(self.locations) // self.pictures_per_read)

    def __getitem__(self, position: int) -> Read:
        """The batches of one item."""
        first = position * self.pictures_per_read
        shown: list[Shown] = []
        failures = []
        for place in range(first, min(first + self.pictures_per_read, len(self.locations))):
            try:
                picture = read_picture(self.locations[place])
            except Exception as error:  # noqa: BLE001 - every format of Pillow and every store of fsspec raises its own
                may_heal = isinstance(error, OSError) and is_transient(error)
                failures.append(Failure(place, in_a_line(error), may_heal))
                continue
            shown += show(picture, place, self.transforms)
        return Read(list(form_batches(shown, self.transforms, on_cpu=self.on_cpu)), failures)


def form_batches(shown: Sequence[Shown], transforms: Transforms, *, on_cpu: bool) -> Iterator[Batch]:
    """Yield batches of images of one padded size."""
    no_truth = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    for padded_size, group in groupby(sorted(shown, key=size_of), key=size_of):
        same, count = list(group), images_per_batch(padded_size, on_cpu=on_cpu)
        for i in range(0, len(same), count):
            part = same[i : i + count]
            images = transforms.pad([each.image for each in part], padded_size)
            sizes = [(each.image.shape[1], each.image.shape[2]) for each in part]
            yield pack(images, [no_truth] * len(part), [each.record for each in part], sizes)


def size_of(shown: Shown) -> tuple[int, int]:
    """Its padded size."""
    return shown.padded_size


def images_per_batch(padded_size: tuple[int, int], *, on_cpu: bool) -> int:
    """The number of images of this size, px, that are detected on at once."""
    height, width = padded_size
    return min(IMAGES_PER_BATCH, max(1, PIXELS_ON_CPU // (height * width))) if on_cpu else IMAGES_PER_BATCH


def read_picture(location: str) -> Tensor:
    """Read a picture at a path or a URL: [3, H, W] uint8 RGB, upright; a store that does not answer is asked again."""
    return decode(retry(lambda: read_bytes(location)))


def show(picture: Tensor, place: int, transforms: Transforms) -> Iterator[Shown]:
    """Yield a picture [3, H, W], or each of its tiles, as the network sees it.

    Args:
        place: of the picture in the list, its image id.
    """
    no_boxes, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    whole = Record(place, str(place), (picture.shape[1], picture.shape[2]), no_boxes, no_labels)
    for record in [whole] if transforms.tiles is None else cut_record(whole, transforms.tiles):
        (top, left), (height, width) = record.corner, record.size
        part = picture[:, top : top + height, left : left + width]
        image, _, _ = transforms.apply(part, no_boxes, transforms.for_evaluation)
        yield Shown(image, record, transforms.padded_size_of([(image.shape[1], image.shape[2])]))


def in_a_line(error: Exception) -> str:
    """Why a picture cannot be read, in one line."""
    if isinstance(error, FileNotFoundError) and error.strerror is None:  # fsspec's of http has the URL alone
        return "there is no such file, or its server does not answer"
    reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return " ".join(reason.split())
