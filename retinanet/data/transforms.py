"""Transforms from a picture to network input: resizing, augmentation, padding.

The augmentation of an image is drawn from a generator seeded by (seed, epoch, image id), so it depends neither on the
number of workers nor on the order of loading, and the resulting size is known without decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.v2.functional as VF
from torch import Tensor
from torchvision.transforms import InterpolationMode


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one image in one epoch.

    Attributes:
        short_side: px after resizing.
        scale: factor on the resized image.
        horizontal_flip, vertical_flip: whether the image is flipped.
        colour: (name, factor) of colour changes, in the order of their application.
    """

    short_side: int
    scale: float = 1.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    colour: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Transforms:
    """Transforms with the parameters of section `transforms`.

    Attributes:
        short_side: px after resizing; of several, training draws one, evaluation uses the largest.
        long_side: px, at most.
        size_divisor: a batch is padded to a multiple of this, px.
        mean, std: RGB of images in [0, 1].
        horizontal_flip, vertical_flip: probabilities.
        scale_jitter: range of a factor on the resized image.
        brightness, contrast, saturation: half-width of the range of a factor around 1; hue: of a shift around 0.
    """

    short_side: int | Sequence[int] = 800
    long_side: int = 1333
    size_divisor: int = 32
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    scale_jitter: Sequence[float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

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
        return Augmentation(short_side, scale, bool(flips[0]), bool(flips[1]), self._draw_colour(generator))

    def _draw_colour(self, generator: np.random.Generator) -> tuple[tuple[str, float], ...]:
        """Factors for brightness, contrast, saturation and hue in a drawn order, as torchvision's ColorJitter."""
        widths = [("brightness", self.brightness), ("contrast", self.contrast)]
        widths += [("saturation", self.saturation), ("hue", self.hue)]
        shifts = [(name, float(generator.uniform(-width, width))) for name, width in widths if width > 0]
        drawn = [(name, shift if name == "hue" else max(0.0, 1.0 + shift)) for name, shift in shifts]
        return tuple(drawn[i] for i in generator.permutation(len(drawn)))

    def resized_size(self, size: tuple[int, int], augmentation: Augmentation) -> tuple[int, int]:
        """Height and width of a picture after resizing, px: at least 1 each."""
        height, width = size
        factor = min(augmentation.short_side / min(height, width), self.long_side / max(height, width))
        factor *= augmentation.scale
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def padded_size_of(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The padded size of a batch: the largest height and width, rounded up to multiples of size_divisor."""
        height, width = (max(side) for side in zip(*sizes, strict=True))
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def apply(self, image: Tensor, boxes: Tensor, augmentation: Augmentation) -> tuple[Tensor, Tensor]:
        """Resize, flip and recolour a picture with its boxes.

        Args:
            image: [3, H, W] uint8 RGB.
            boxes: [M, 4] px in that image.

        Returns:
            [3, H', W'] uint8 and [M, 4] px in the new frame.
        """
        old_size = (image.shape[1], image.shape[2])
        size = self.resized_size(old_size, augmentation)
        if size != old_size:
            image = VF.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
        factor_y, factor_x = size[0] / old_size[0], size[1] / old_size[1]
        boxes = boxes * boxes.new_tensor([factor_x, factor_y, factor_x, factor_y])
        image, boxes = flip(image, boxes, horizontal=augmentation.horizontal_flip, vertical=augmentation.vertical_flip)
        for name, factor in augmentation.colour:
            image = getattr(VF, f"adjust_{name}")(image, factor)
        return image, boxes

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


def flip(image: Tensor, boxes: Tensor, *, horizontal: bool, vertical: bool) -> tuple[Tensor, Tensor]:
    """Flip an image [3, H, W] and its boxes [M, 4]."""
    height, width = image.shape[1:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    if horizontal:
        image, x1, x2 = image.flip(2), width - x2, width - x1
    if vertical:
        image, y1, y2 = image.flip(1), height - y2, height - y1
    return image, torch.stack([x1, y1, x2, y2], dim=-1)
