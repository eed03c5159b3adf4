"""Which classes a data set has, in which order, and under which ids; the same for all its splits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pipeline.formats.records import Category, CocoCategory


def choose_classes(
    categories: Mapping[str, Sequence[Category]], chosen: Sequence[str] | None
) -> tuple[list[CocoCategory], list[str]]:
    """The classes of all splits together, and sentences on what a person should know about them.

    Args:
        categories: per split, in the source's order
        chosen: names that choose and order the classes; None takes all

    Returns:
        categories in the order of the labels; sources without ids get 1, 2, ... in that order
        notes
    """
    united, notes = _unite(categories)
    if not united:
        raise ValueError("no class occurs in the annotations of any split; check data.train.annotations")
    names = list(united) if chosen is None else list(chosen)
    for name in names:
        if name not in united:
            raise ValueError(
                f"data.classes names {name!r}, which occurs nowhere; the nearest class is {_nearest(name, united)!r}"
            )
    return [{"id": united[name] or place, "name": name} for place, name in enumerate(names, start=1)], notes


def _unite(categories: Mapping[str, Sequence[Category]]) -> tuple[dict[str, int | None], list[str]]:
    """Ids by name: the first split's classes, then what later ones add; sorted by name where there are no ids."""
    ids: dict[str, int | None] = {}
    notes = []
    for split, found in categories.items():
        added = [category.name for category in found if category.name not in ids]
        if ids and added:
            notes.append(f"{split} has classes that no earlier split has: {', '.join(added)}")
        for category in found:
            _check_agrees(ids, category, split=split)
            ids[category.name] = category.id
    nameless = all(number is None for number in ids.values())
    return (dict(sorted(ids.items())) if nameless else ids), notes


def _check_agrees(ids: Mapping[str, int | None], category: Category, *, split: str) -> None:
    """One class has one id and one id one class, in all splits."""
    if category.id is None:
        return
    names = {number: name for name, number in ids.items()}
    name, number = names.get(category.id, category.name), ids.get(category.name, category.id)
    if name != category.name or number != category.id:
        raise ValueError(
            f"data.{split}.annotations: class {category.name!r} has the id {category.id}, but an earlier split says "
            f"{name!r} has {number}; give the splits the same categories"
        )


def _nearest(name: str, names: Mapping[str, object]) -> str:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
