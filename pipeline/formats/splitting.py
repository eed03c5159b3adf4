"""A seeded, stratified split of groups of images by fractions."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

TRAIN = "train"
# The name under which a group counts its images, beside its classes; no class has an empty name.
IMAGES = ""


class Group(NamedTuple):
    """Images that stay in one split."""

    key: str
    """unique among the groups"""
    counts: Mapping[str, int]
    """number of boxes of each class, at least 1, and of images under IMAGES"""
    split: str | None = None
    """where the group has to be; None: anywhere"""


def assign(groups: Sequence[Group], fractions: Mapping[str, float], *, seed: int) -> list[str]:
    """Choose the split of each group; the order of the groups does not matter.

    First each class gets a group in every part, the class with the fewest groups before the others; then each part that
    is still empty gets a group, and a class with fewer groups than parts, a scarce one, gets one in train if it can.
    Every other group goes to the part where it raises the chi-square distance of the part's shares of images and boxes
    to its fraction least; a part with its fraction of the images gets no more. Groups that are a large part of the
    images or of a class go first, so that the others make up for them.

    Args:
        fractions: of the images, for each part but train, which gets the rest.
        seed: decides between equals.
    """
    parts = _Parts({TRAIN: 1.0 - sum(fractions.values()), **fractions}, groups)
    for group in groups:
        if group.split is not None:
            parts.put(group, group.split)
    order = sorted(groups, key=lambda group: _chance(seed, group.key))
    for name, holders in _rarest_first(order, parts.scarce):
        parts.cover(name, holders)
    for group in sorted(order, key=parts.octave):
        if group.key not in parts.chosen:
            parts.put(group, parts.nearest(group))
    return [parts.chosen[group.key] for group in groups]


def count_holders(groups: Sequence[Group]) -> Counter[str]:
    """Return in how many groups each class occurs, and the number of groups under IMAGES."""
    return Counter(name for group in groups for name in group.counts)


class _Parts:
    """The parts of a split while groups are put into them."""

    def __init__(self, fractions: Mapping[str, float], groups: Sequence[Group]) -> None:
        self.fractions = fractions
        self.totals: Counter[str] = Counter()
        for group in groups:
            self.totals.update(group.counts)
        self.filled: dict[str, Counter[str]] = {part: Counter() for part in fractions}
        self.chosen: dict[str, str] = {}
        holders = count_holders(groups)
        self.scarce = {name for name, count in holders.items() if count < len(fractions)}

    def put(self, group: Group, part: str) -> None:
        self.chosen[group.key] = part
        self.filled[part].update(group.counts)

    def cover(self, name: str, holders: Sequence[Group]) -> None:
        """Give one group of a class to each part without it, or of a scarce class to train.

        Train gets the largest one of those with the most scarce classes, the other parts the smallest of the others.
        """
        free = [group for group in holders if group.key not in self.chosen]
        free.sort(key=lambda group: (len(self.scarce & group.counts.keys()), group.counts[IMAGES]))
        for part in (TRAIN,) if name in self.scarce else self.fractions:
            if free and not self.filled[part][name]:
                self.put(free.pop(-1 if part == TRAIN else 0), part)

    def octave(self, group: Group) -> int:
        """Return -log2 of the group's largest share of the images or of a class, as an integer."""
        return -math.frexp(max(count / self.totals[name] for name, count in group.counts.items()))[1]

    def nearest(self, group: Group) -> str:
        """Return the part whose shares the group brings nearest to its fraction, of those that lack images."""
        total = self.totals[IMAGES]
        lacking = [part for part, fraction in self.fractions.items() if self.filled[part][IMAGES] < fraction * total]
        return min(lacking or [TRAIN], key=lambda part: self._distance(group, part))

    def _distance(self, group: Group, part: str) -> float:
        """Return the change of sum_k (share_k - fraction)^2 / fraction by a group, over classes and images k."""
        fraction, filled = self.fractions[part], self.filled[part]
        return sum(
            count / total * (2 * (filled[name] / total - fraction) + count / total) / fraction
            for name, count in sorted(group.counts.items())
            for total in [self.totals[name]]
        )


def _rarest_first(order: Sequence[Group], scarce: Set[str]) -> Iterator[tuple[str, list[Group]]]:
    """Yield every class with its groups, those with the fewest groups first, then all groups, then scarce classes."""
    holders: defaultdict[str, list[Group]] = defaultdict(list)
    for group in order:
        for name in group.counts:
            holders[name].append(group)
    yield from sorted(holders.items(), key=lambda item: (item[0] in scarce, len(item[1]), item[0] == IMAGES, item[0]))


def _chance(seed: int, key: str) -> bytes:
    """Return bytes by which keys are in random order."""
    return hashlib.sha256(f"{seed} {key}".encode()).digest()
