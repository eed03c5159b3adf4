"""Classes of a data set, with order and ids, common to all its splits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pipeline.formats.numbering import number_uniquely
from pipeline.formats.records import Category, CocoCategory, printable


def choose_classes(
    categories: Mapping[str, Sequence[Category]], chosen: Sequence[str] | None
) -> tuple[list[CocoCategory], list[str]]:
    """Merge the classes of all splits; return them with notes for the user.

    Args:
        categories: per split, in the source's order
        chosen: names that select and order the classes; None selects all

    Returns:
        categories in the order of the labels, under their source's ids; those without one get the smallest numbers
            from 1 that are free, in that order
        notes
    """
    classes, notes = _leave_out_data_set_names(categories, chosen)
    united, more = _unite(classes)
    if not united:
        raise ValueError("no class occurs in the annotations of any split; check data.train.annotations")
    for name in united:
        if printable(name) != name:
            raise ValueError(f"class {name!r} has half a character in its name; correct it in the annotations")
    names = list(united) if chosen is None else list(chosen)
    for name in names:
        if name not in united:
            raise ValueError(
                f"data.classes names {name!r}, which does not occur; the nearest class is {_nearest(name, united)!r}"
            )
    return _number(united, names), notes + more


def _number(united: Mapping[str, int | None], names: Sequence[str]) -> list[CocoCategory]:
    """Keep every id, including 0."""
    given = [united[name] for name in names]
    rows = zip(names, given, number_uniquely(given), strict=True)
    return [{"id": free if number is None else number, "name": name} for name, number, free in rows]


def _leave_out_data_set_names(
    categories: Mapping[str, Sequence[Category]], chosen: Sequence[str] | None
) -> tuple[dict[str, list[Category]], list[str]]:
    """Remove entries that only name the data set; return the classes of each split and a note on each removed entry.

    An entry goes if it names the data set in every split that has it; `chosen` may call it a class all the same.
    """
    entries = [category for found in categories.values() for category in found]
    classes = {(entry.id, entry.name) for entry in entries if not entry.names_data_set}
    called_classes = set(chosen or ()) - {name for _, name in classes}
    classes |= {(entry.id, entry.name) for entry in entries if entry.name in called_classes}
    kept = {split: [c for c in found if (c.id, c.name) in classes] for split, found in categories.items()}
    others = dict.fromkeys((entry.id, entry.name) for entry in entries if (entry.id, entry.name) not in classes)
    return kept, [
        f"category {name!r} (id {number}) has no box and is the supercategory of all others: it names the data set and "
        "is not a class; list it in data.classes to make it one"
        for number, name in others
    ]


def _unite(categories: Mapping[str, Sequence[Category]]) -> tuple[dict[str, int | None], list[str]]:
    """Return ids by name: the first split's classes, then those of later splits; sorted by name without ids."""
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
    """Check that names and ids correspond one to one in all splits."""
    if category.id is None:
        return
    names = {number: name for name, number in ids.items()}
    name, number = names.get(category.id, category.name), ids.get(category.name, category.id)
    if name != category.name or number != category.id:
        raise ValueError(
            f"data.{split}.annotations: class {category.name!r} has id {category.id}, but before "
            f"{name!r} has id {number}; give all splits and files the same categories"
        )


def _nearest(name: str, names: Mapping[str, object]) -> str:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
