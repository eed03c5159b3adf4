"""Transforms from a picture to network input: resizing, augmentation, padding.

The augmentation of an image is drawn from a generator seeded by (seed, epoch, image id), so it depends neither on the
number of workers nor on the order of loading, and the resulting size is known without decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as VF
from torch import Tensor
from torchvision.ops import box_area
from torchvision.transforms import InterpolationMode

from retinanet.data.resizing import RESIZES
from retinanet.data.tiles import Tiles

CROPS = 1  # last number of the seed of an image's crops


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one image in one epoch.

    Attributes:
        short_side: px after resizing.
        within: height and width that the resized image has at most, px; None: no limit but long_side.
        crop: height and width of the crop, as fractions of the picture's.
        crop_at: where the crop lies, from 0 (top, left) to 1 (bottom, right).
        scale: factor on the resized image; above 1 it is cropped to its size at 1.
        scale_at: where that crop lies, as crop_at.
        horizontal_flip, vertical_flip: whether the image is flipped.
        colour: (name, factor) of colour changes, in the order of their application.
    """

    short_side: int
    within: tuple[int, int] | None = None
    crop: tuple[float, float] = (1.0, 1.0)
    crop_at: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    scale_at: tuple[float, float] = (0.0, 0.0)
    horizontal_flip: bool = False
    vertical_flip: bool = False
    colour: tuple[tuple[str, float], ...] = ()


class Geometry(NamedTuple):
    """The part of a picture that the network sees, and its size there.

    Attributes:
        top, left, height, width: px in the picture.
        size: height and width after resizing, px.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Transforms:
    """Transforms with the parameters of section `transforms`.

    Attributes:
        short_side: px after resizing; of several, training draws one, evaluation uses the largest.
        long_side: px, at most.
        resize: a key of RESIZES.
        size_divisor: a batch is padded to a multiple of this, px.
        canvas: height and width to which every training batch is padded, px; images are resized to fit into it. None:
            to the largest image of the batch.
        mean, std: RGB of images in [0, 1].
        horizontal_flip, vertical_flip: probabilities.
        random_crop: smallest fraction of each side of a picture that a crop before resizing keeps, as the relative
            range of Detectron2's RandomCrop; 1: no crop.
        scale_jitter: range of a factor on the resized image, the large-scale jitter of Ghiasi et al. 2021 (Simple
            Copy-Paste, section 3): what exceeds the image's size at factor 1 is cropped, so no batch grows by it.
        min_visible: a box of which the crops leave less than this fraction of its area is dropped.
        scaled_decoding: whether a JPEG at least twice as large as the network sees it is decoded smaller; no tile is.
        tiles: how pictures are cut before everything else; None: they are not.
        brightness, contrast, saturation: half-width of the range of a factor around 1; hue: of a shift around 0.
    """

    short_side: int | Sequence[int] = 800
    long_side: int = 1333
    resize: str = "pillow"
    size_divisor: int = 32
    canvas: Sequence[int] | None = None
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    random_crop: float = 1.0
    scale_jitter: Sequence[float] = (1.0, 1.0)
    min_visible: float = 0.25
    scaled_decoding: bool = False
    tiles: Tiles | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    @staticmethod
    def from_dict(section: Mapping[str, Any]) -> Transforms:
        """The transforms of plain values, as the file of a detector holds them."""
        return Transforms(**{**section, "tiles": Tiles.from_dict(section.get("tiles"))})

    @property
    def short_sides(self) -> list[int]:
        """The short sides that training draws from, px."""
        return [self.short_side] if isinstance(self.short_side, int) else list(self.short_side)

    @property
    def for_evaluation(self) -> Augmentation:
        """No augmentation, the largest size."""
        return Augmentation(short_side=max(self.short_sides))

    def draw(self, *seed: int) -> Augmentation:
        """Draw the augmentation of an image, deterministic by the seed (seed of the run, epoch, image id)."""
        generator = seeded(*seed)
        short_side = self.short_sides[generator.integers(len(self.short_sides))]
        smallest, largest = self.scale_jitter
        scale = float(generator.uniform(smallest, largest))
        flips = generator.random(2) < (self.horizontal_flip, self.vertical_flip)
        return Augmentation(
            short_side,
            within=None if self.canvas is None else (self.canvas[0], self.canvas[1]),
            **self._draw_crops(*seed),
            scale=scale,
            horizontal_flip=bool(flips[0]),
            vertical_flip=bool(flips[1]),
            colour=self._draw_colour(generator),
        )

    def _draw_crops(self, *seed: int) -> dict[str, tuple[float, float]]:
        """Draw from a generator of their own, so that other augmentation does not depend on whether crops are on."""
        if self.random_crop == 1 and max(self.scale_jitter) <= 1:
            return {}
        drawn = seeded(*seed, CROPS).random((3, 2)).tolist()
        (height, width), crop_at, scale_at = drawn
        lost = 1 - self.random_crop
        return {"crop": (1 - lost * height, 1 - lost * width), "crop_at": tuple(crop_at), "scale_at": tuple(scale_at)}

    def _draw_colour(self, generator: np.random.Generator) -> tuple[tuple[str, float], ...]:
        """Factors for brightness, contrast, saturation and hue in a drawn order, as torchvision's ColorJitter."""
        widths = [("brightness", self.brightness), ("contrast", self.contrast)]
        widths += [("saturation", self.saturation), ("hue", self.hue)]
        shifts = [(name, float(generator.uniform(-width, width))) for name, width in widths if width > 0]
        drawn = [(name, shift if name == "hue" else max(0.0, 1.0 + shift)) for name, shift in shifts]
        return tuple(drawn[i] for i in generator.permutation(len(drawn)))

    def geometry(self, size: tuple[int, int], augmentation: Augmentation) -> Geometry:
        """What a picture of this height and width shows, and how large.

        The crop of a factor above 1 is taken from the picture before it is enlarged: no pixel is computed in vain.
        """
        top, height = cut(size[0], augmentation.crop[0], augmentation.crop_at[0])
        left, width = cut(size[1], augmentation.crop[1], augmentation.crop_at[1])
        rule = RESIZES[self.resize]
        factor = min(augmentation.short_side / min(height, width), self.long_side / max(height, width))
        if augmentation.within is not None:
            factor = min(factor, augmentation.within[0] / height, augmentation.within[1] / width)
        scale = augmentation.scale
        if scale <= 1:
            return Geometry(top, left, height, width, rule.scaled((height, width), factor * scale))
        largest = rule.scaled((height, width), factor)
        below, height = cut(height, 1 / scale, augmentation.scale_at[0])
        right, width = cut(width, 1 / scale, augmentation.scale_at[1])
        enlarged = rule.scaled((height, width), factor * scale)
        size = min(enlarged[0], largest[0]), min(enlarged[1], largest[1])
        return Geometry(top + below, left + right, height, width, size)

    def resized_size(self, size: tuple[int, int], augmentation: Augmentation) -> tuple[int, int]:
        """Height and width of a picture after cropping and resizing, px: at least 1 each."""
        return self.geometry(size, augmentation).size

    def reduction(self, size: tuple[int, int]) -> int:
        """How much smaller a JPEG of this height and width may be decoded: 8, 4, 2, or 1 for whole.

        It divides both sides, so that boxes map exactly, and leaves at least the pixels that the network sees at the
        largest augmentation. It does not depend on what is drawn, so a cached picture serves every epoch.
        """
        if not self.scaled_decoding:
            return 1
        factor = min(max(self.short_sides) / min(size), self.long_side / max(size))
        factor *= max(1.0, *self.scale_jitter) / self.random_crop
        divides = (r for r in (8, 4, 2) if r * factor <= 1 and size[0] % r == size[1] % r == 0)
        return next(divides, 1)

    def training_size_of(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The padded size of a training batch: the canvas where there is one."""
        return self.padded_size_of(sizes if self.canvas is None else [(self.canvas[0], self.canvas[1])])

    def padded_size_of(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The padded size of a batch: the largest height and width, rounded up to multiples of size_divisor."""
        height, width = (max(side) for side in zip(*sizes, strict=True))
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def apply(
        self, image: Tensor, boxes: Tensor, augmentation: Augmentation, *, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Crop, resize, flip and recolour a picture with its boxes.

        Args:
            image: [3, H, W] uint8 RGB.
            boxes: [M, 4] px in the picture.
            size: height and width of the picture, multiples of those of an image that was decoded smaller; None: the
                image's.

        Returns:
            [3, H', W'] uint8, the remaining boxes [K, 4] px in the new frame, and their indices [K].
        """
        old_size = (image.shape[1], image.shape[2]) if size is None else size
        reduction = old_size[0] // image.shape[1]
        top, left, height, width, new_size = self.geometry(old_size, augmentation)
        kept = torch.arange(len(boxes))
        if (height, width) != old_size:
            boxes, kept = crop_boxes(boxes - boxes.new_tensor([left, top, left, top]), height, width, self.min_visible)
            # Whole pixels of an image that was decoded smaller: they may begin a little before the crop.
            boxes = boxes + boxes.new_tensor([left % reduction, top % reduction] * 2)
            rows = slice(top // reduction, -(-(top + height) // reduction))
            image = image[:, rows, left // reduction : -(-(left + width) // reduction)]
        shown = (image.shape[1], image.shape[2])
        if new_size != shown:
            antialias = RESIZES[self.resize].antialias
            image = VF.resize(image, list(new_size), interpolation=InterpolationMode.BILINEAR, antialias=antialias)
        factor_y, factor_x = new_size[0] / (reduction * shown[0]), new_size[1] / (reduction * shown[1])
        boxes = boxes * boxes.new_tensor([factor_x, factor_y, factor_x, factor_y])
        image, boxes = flip(image, boxes, horizontal=augmentation.horizontal_flip, vertical=augmentation.vertical_flip)
        for name, factor in augmentation.colour:
            image = getattr(VF, f"adjust_{name}")(image, factor)
        return image, boxes, kept

    def pad(self, images: Sequence[Tensor], padded_size: tuple[int, int]) -> Tensor:
        """Pad images [3, H, W] uint8 at the right and the bottom with the mean colour: [N, 3, H, W], channels_last.

        Normalisation turns the mean into (about) zero, which is also the padding of convolutions.
        """
        canvas = torch.empty(len(images), *padded_size, 3, dtype=torch.uint8)  # channels_last
        mean = torch.tensor([round(255 * value) for value in self.mean], dtype=torch.uint8)
        for row, image in zip(canvas, images, strict=True):
            height, width = image.shape[1:]
            row[:height, :width] = image.permute(1, 2, 0)
            row[height:] = mean
            row[:height, width:] = mean
        return canvas.permute(0, 3, 1, 2)


def seeded(*seed: int) -> np.random.Generator:
    """A generator seeded by integers of any sign; numpy itself refuses negative ones."""
    return np.random.default_rng([number % 2**64 for number in seed])


def cut(length: int, fraction: float, position: float) -> tuple[int, int]:
    """First pixel and length, at least 1, of a part of a side of this length, px.

    Args:
        fraction: of the side, in (0, 1].
        position: in [0, 1); 0: the part begins with the side, towards 1: it ends with it.
    """
    part = max(1, int(length * fraction + 0.5))
    return int(position * (length - part + 1)), part


def crop_boxes(boxes: Tensor, height: int, width: int, min_visible: float) -> tuple[Tensor, Tensor]:
    """Clip boxes to a crop and drop those that it hardly shows.

    Args:
        boxes: [M, 4] px in the frame of the crop, of positive area.
        height, width: of the crop, px.
        min_visible: smallest fraction of its area that a remaining box shows; a box without any is always dropped.

    Returns:
        The remaining boxes [K, 4], and their indices [K].
    """
    limits = boxes.new_tensor([width, height, width, height])
    clipped = torch.minimum(boxes.clamp(min=0), limits)
    before, after = box_area(boxes), box_area(clipped)
    kept = torch.nonzero((after > 0) & (after >= min_visible * before)).flatten()
    return clipped[kept], kept


def flip(image: Tensor, boxes: Tensor, *, horizontal: bool, vertical: bool) -> tuple[Tensor, Tensor]:
    """Flip an image [3, H, W] and its boxes [M, 4]."""
    height, width = image.shape[1:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    if horizontal:
        image, x1, x2 = image.flip(2), width - x2, width - x1
    if vertical:
        image, y1, y2 = image.flip(1), height - y2, height - y1
    return image, torch.stack([x1, y1, x2, y2], dim=-1)
