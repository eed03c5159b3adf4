"""Read a user's data set -> the prepared COCO dictionary of each split, and a report of dropped records.

A new format is one room with a reader and one line in READERS (readers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipeline.formats.checking import check_split, count_boxes
from pipeline.formats.checks import apply_checks, name_pairs, refuse
from pipeline.formats.classes import choose_classes
from pipeline.formats.cutting import Cut, choose_splits
from pipeline.formats.declared import declared_files
from pipeline.formats.dividing import divide
from pipeline.formats.duplicates import Copies, search_copies
from pipeline.formats.image_columns import read_image_columns
from pipeline.formats.merging import merge
from pipeline.formats.picture_cache import Picture, PictureCache
from pipeline.formats.pictures import inspect_pictures
from pipeline.formats.readers import READERS
from pipeline.formats.records import CocoCategory, Difficult, RawSplit, Split, SplitFiles, printable
from pipeline.formats.report import format_report, summarise
from pipeline.formats.root import Root
from pipeline.params.data import Checks, Columns, Table

__all__ = [
    "READERS",
    "Cut",
    "Split",
    "SplitFiles",
    "declared_files",
    "format_report",
    "merge",
    "printable",
    "read_splits",
    "summarise",
]

SPLITS = ("train", "val", "test")


def read_splits(
    name: str,
    root: str,
    files: Mapping[str, SplitFiles],
    *,
    classes: Sequence[str] | None = None,
    difficult: Difficult = "keep",
    checks: Checks | None = None,
    columns: Columns | None = None,
    form: Table | None = None,
    cut: Cut | None = None,
    cache: PictureCache | None = None,
) -> tuple[dict[str, Split], list[str]]:
    """Read, check and number all splits of a data set.

    Args:
        name: a key of READERS
        root: folder or URL of annotations and images
        files: per split, in the order train, val, test
        classes: names that select and order the classes; None selects all
        difficult: whether objects that the source marks as difficult are kept, kept as crowds, or dropped
        checks: what becomes of suspicious records; None: they are not looked for
        columns: which columns each image gets, and from where
        form: how the tables of format csv are written; None: found
        cut: how train is cut into the splits that `files` lacks; None leaves it whole
        cache: of what an earlier run found in the pictures; None: every picture is opened

    Returns:
        splits: by name, in the order train, val, test, all with the same categories
        notes: sentences on the data set as a whole
    """
    if name not in READERS:
        raise ValueError(f"data.format is {name!r}; expected one of {', '.join(READERS)}")
    source = Root(root)
    read = READERS[name].read if form is None else partial(READERS[name].read, form=form)
    raw = {split: merge([read(source, one, split=split) for one in paths.each]) for split, paths in files.items()}
    categories, notes = choose_classes({split: found.categories for split, found in raw.items()}, classes)
    raw = _add_columns(source, raw, files, columns, form)
    for split, found in raw.items():
        if not found.num_images:
            raise ValueError(f"data.{split}: {source.shown(files[split].annotations)} names no image; name another")
    pictures = {split: inspect_pictures(source, found.images, split=split, cache=cache) for split, found in raw.items()}
    copies = None
    if cut is not None:
        copies = _search_copies(pictures, cut)
        notes += _cut_train(raw, pictures, categories, difficult, cut, copies)
    check = partial(check_split, source, categories=categories, difficult=difficult, columns=columns)
    splits = {
        split: replace(check(raw[split], pictures[split], split=split), copies=copies)
        for split in SPLITS
        if split in raw
    }
    if checks is not None:
        splits = {split: apply_checks(found, checks, name=split) for split, found in splits.items()}
        pairs = name_pairs([category["name"] for category in categories])
        refuse(splits, pairs, checks)
        notes += [f"class names {first!r} and {second!r} differ by case or blanks alone" for first, second in pairs]
    return splits, [*notes, *(f"{name}: {note}" for name, split in splits.items() for note in split.notes)]


def _add_columns(
    root: Root,
    raw: Mapping[str, RawSplit],
    files: Mapping[str, SplitFiles],
    columns: Columns | None,
    form: Table | None,
) -> dict[str, RawSplit]:
    """Return the splits with the columns of their images."""
    if columns is None:
        return dict(raw)
    images = {split: found.images for split, found in raw.items()}
    values = read_image_columns(root, columns, images, files, form=form)
    return {
        split: replace(found, images=[replace(one, columns=values.get(one.path, {})) for one in found.images])
        for split, found in raw.items()
    }


def _search_copies(pictures: Mapping[str, Sequence[Picture]], cut: Cut) -> Copies | None:
    """Return the near-identical pictures of all splits: once for the cut and for leaks."""
    if cut.duplicates is None:
        return None
    readable = [picture for seen in pictures.values() for picture in seen if picture.fault is None]
    return search_copies({picture.sha256: picture.thumbnail for picture in readable}, cut.duplicates)


def _cut_train(
    raw: dict[str, RawSplit],
    pictures: dict[str, list[Picture]],
    categories: Sequence[CocoCategory],
    difficult: Difficult,
    cut: Cut,
    copies: Copies | None,
) -> list[str]:
    """Replace train by the parts of a cut; return notes."""
    whole, seen = raw["train"], pictures["train"]
    chosen, notes = choose_splits(whole.images, seen, count_boxes(whole, seen, categories, difficult), cut, copies)
    raw.update(divide(whole, chosen, cut.parts))
    for part in cut.parts:
        pictures[part] = [picture for picture, split in zip(seen, chosen, strict=True) if split == part]
    return notes
