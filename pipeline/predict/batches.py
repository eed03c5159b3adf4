"""Batches of pictures without ground truth; a picture that cannot be read is reported, and the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from retinanet.data.dataset import Batch, pack
from retinanet.data.pictures import read_picture
from retinanet.data.records import Record
from retinanet.data.tiles import cut_record
from retinanet.data.transforms import Transforms

IMAGES_PER_BATCH = 8


class Read(NamedTuple):
    """What was read for one batch.

    Attributes:
        batch: image ids are the places of the pictures in the list; None if no picture could be read.
        failures: place and reason of each that could not.
    """

    batch: Batch | None
    failures: list[tuple[int, str]]


class PictureBatches(Dataset[Read]):
    """Pictures at paths or URLs, resized as in the evaluation, in batches in the order of the list.

    Where the transforms have tiles, a batch is all tiles of one picture.
    """

    def __init__(self, locations: Sequence[str], transforms: Transforms, *, batch_size: int = IMAGES_PER_BATCH) -> None:
        self.locations, self.transforms = list(locations), transforms
        self.batch_size = batch_size if transforms.tiles is None else 1

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.locations) // self.batch_size)

    def __getitem__(self, position: int) -> Read:
        """One batch, padded to its largest image."""
        first = position * self.batch_size
        images, records, sizes, failures = [], [], [], []
        no_boxes, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        for place in range(first, min(first + self.batch_size, len(self.locations))):
            try:
                picture = read_picture(self.locations[place])
            except ValueError as error:
                failures.append((place, str(error)))
                continue
            size = (picture.shape[1], picture.shape[2])
            record = Record(place, self.locations[place], size, no_boxes, no_labels)
            for tile in [record] if self.transforms.tiles is None else cut_record(record, self.transforms.tiles):
                (top, left), (height, width) = tile.corner, tile.size
                shown = picture[:, top : top + height, left : left + width]
                image, _, _ = self.transforms.apply(shown, no_boxes, self.transforms.for_evaluation)
                images.append(image)
                sizes.append((image.shape[1], image.shape[2]))
                records.append(tile)
        if not images:
            return Read(None, failures)
        padded = self.transforms.pad(images, self.transforms.padded_size_of(sizes))
        return Read(pack(padded, [(no_boxes, no_labels)] * len(images), records, sizes), failures)
