"""Ground truth at training scale: as the network sees it, without augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from pipeline.params.experiment import Transforms as Section
from retinanet.data.records import Record
from retinanet.data.tiles import Tiles, cut_record
from retinanet.data.transforms import Transforms


def at_training_scale(records: Iterable[Record], section: Section) -> Iterator[tuple[Record, Tensor, tuple[int, int]]]:
    """Every image or tile with its truths resized as in training, and its padded size: (record, [M, 4] px, (H, W)).

    Of several short sides it is the largest; with a canvas the image fits into it, and is padded to it.

    Args:
        records: of whole pictures.
    """
    transforms = Transforms(
        short_side=section.short_side,
        long_side=section.long_side,
        size_divisor=section.size_divisor,
        canvas=section.canvas,
    )
    within = None if section.canvas is None else (section.canvas[0], section.canvas[1])
    resizing = replace(transforms.for_evaluation, within=within)

    @cache
    def scaling(size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Factors on the corners of the boxes, [4], and the padded size; many images have one size."""
        resized = transforms.resized_size(size, resizing)
        factor_y, factor_x = resized[0] / size[0], resized[1] / size[1]
        return torch.tensor([factor_x, factor_y, factor_x, factor_y]), transforms.training_size_of([resized])

    tiles = section.tiles
    if tiles is not None:
        cut = Tiles(size=tiles.size, overlap=tiles.overlap, min_visible=tiles.min_visible)
        records = (tile for picture in records for tile in cut_record(picture, cut))
    for record in records:
        factors, padded_size = scaling(record.size)
        yield record, record.boxes * factors, padded_size
