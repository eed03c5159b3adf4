"""Assignments of fixed shapes, for CUDA graphs: the number of foreground and ignored anchors differs in every batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet.losses.criterion import Assignment
from retinanet.network.predictions import AnchorLocations

SMALLEST = 64  # locations of a level


class FixedShapes:
    """Pads assignments to a number of locations on each level that grows when a batch needs more.

    Padding changes no loss but by rounding: its losses have a factor of 0, and it writes no gradient of its own.

    Attributes:
        foreground, ignored: locations per level; empty before the first batch.
    """

    def __init__(self) -> None:
        self.foreground: list[int] = []
        self.ignored: list[int] = []

    def pad(self, assignments: Sequence[Assignment]) -> list[Assignment]:
        """Pad the assignments of all micro-batches of a step, on the CPU, to the same shapes."""
        self.foreground = grow(self.foreground, [assignment.foreground.counts for assignment in assignments])
        self.ignored = grow(self.ignored, [assignment.ignored.counts for assignment in assignments])
        return [pad_assignment(assignment, self.foreground, self.ignored) for assignment in assignments]


def grow(sizes: list[int], counts: Sequence[Sequence[int]]) -> list[int]:
    """The sizes where they suffice for all counts; where one does not, twice what is needed, as a power of two.

    Args:
        sizes: of each level; empty: none yet.
        counts: of the levels of each micro-batch.
    """
    needed = [max(level) for level in zip(*counts, strict=True)]
    known = sizes or [0] * len(needed)
    return [
        size if most <= size else max(SMALLEST, 1 << (2 * most - 1).bit_length())
        for size, most in zip(known, [max(1, most) for most in needed], strict=True)
    ]


def pad_assignment(assignment: Assignment, foreground: Sequence[int], ignored: Sequence[int]) -> Assignment:
    """Pad an assignment to these numbers of locations per level."""
    padded, position = pad_locations(assignment.foreground, foreground)
    unit_box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # of a level without foreground: its code is 0
    return Assignment(
        num_foreground=assignment.num_foreground,
        foreground=padded,
        anchors=torch.cat([assignment.anchors, unit_box.to(assignment.anchors)])[position],
        truth_boxes=torch.cat([assignment.truth_boxes, unit_box.to(assignment.truth_boxes)])[position],
        truth_labels=torch.cat([assignment.truth_labels, assignment.truth_labels.new_zeros(1)])[position],
        ignored=pad_locations(assignment.ignored, ignored)[0],
    )


def pad_locations(locations: AnchorLocations, sizes: Sequence[int]) -> tuple[AnchorLocations, Tensor]:
    """Repeat the last location of each level; a level without any gets location 0 of the first image.

    Args:
        sizes: locations per level, at least its count and 1.

    Returns:
        The locations with `counted`, and [sum of sizes] which of the given locations each is; R for none of them.
    """
    number, first = locations.indices.shape[1], 0
    position, counted = [], []
    for count, size in zip(locations.counts, sizes, strict=True):
        own = torch.arange(size)
        position.append(first + own.clamp(max=count - 1) if count else torch.full((size,), number))
        counted.append(own < count)
        first += count
    order = torch.cat(position)
    indices = torch.cat([locations.indices, locations.indices.new_zeros(5, 1)], dim=1)[:, order]
    return AnchorLocations(list(sizes), indices, torch.cat(counted)), order
