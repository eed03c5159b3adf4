"""The rules by which several libraries resize pictures."""

from __future__ import annotations

from typing import NamedTuple


class Resize(NamedTuple):
    """How bilinear resizing treats sizes and pixels.

    Attributes:
        antialias: whether a picture is smoothed where it shrinks.
        rounds: sides are rounded to the nearest px, else down.
    """

    antialias: bool
    rounds: bool

    def scaled(self, size: tuple[int, int], factor: float) -> tuple[int, int]:
        """Height and width times a factor, at least 1 px each."""
        height, width = (max(1, int(side * factor + 0.5 * self.rounds)) for side in size)
        return height, width


# Pillow's is Detectron2's rule, OpenCV's MMDetection's; torchvision's detectors resize within the network.
RESIZES = {
    "pillow": Resize(antialias=True, rounds=True),
    "opencv": Resize(antialias=False, rounds=True),
    "torchvision": Resize(antialias=False, rounds=False),
}
