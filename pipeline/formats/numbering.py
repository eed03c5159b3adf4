"""Ids that every COCO reader accepts: unique integers from 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count


def number_uniquely(ids: Sequence[int | None]) -> list[int]:
    """Return one unique id of at least 1 for each of `ids`.

    An id of at least 1 stays where it occurs first. None, ids below 1 and repeated ones get the smallest numbers that
    are free.
    """
    taken = {number for number in ids if number is not None and number >= 1}
    free = (number for number in count(1) if number not in taken)
    return list(_replace(ids, free))


def _replace(ids: Sequence[int | None], free: Iterator[int]) -> Iterator[int]:
    seen: set[int] = set()
    for number in ids:
        yield next(free) if number is None or number < 1 or number in seen else number
        if number is not None:
            seen.add(number)
