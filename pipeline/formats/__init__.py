"""Read a user's data set -> the prepared COCO dictionary of each split, and a report of dropped records.

A new format is one room with a reader and one line in READERS (readers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.formats.checking import check_split, count_boxes
from pipeline.formats.checks import apply_checks, name_pairs, refuse
from pipeline.formats.classes import choose_classes
from pipeline.formats.cutting import Cut, choose_splits
from pipeline.formats.declared import declared_files
from pipeline.formats.dividing import divide
from pipeline.formats.merging import merge
from pipeline.formats.picture_cache import Picture, PictureCache
from pipeline.formats.pictures import inspect_pictures
from pipeline.formats.readers import READERS
from pipeline.formats.records import CocoCategory, Difficult, RawSplit, Split, SplitFiles, printable
from pipeline.formats.report import format_report, summarise
from pipeline.formats.root import Root
from pipeline.params.experiment import Checks

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
        cut: how train is cut into the splits that `files` lacks; None leaves it whole
        cache: of what an earlier run found in the pictures; None: every picture is opened

    Returns:
        splits: by name, in the order train, val, test, all with the same categories
        notes: sentences on the data set as a whole
    """
    if name not in READERS:
        raise ValueError(f"data.format is {name!r}; expected one of {', '.join(READERS)}")
    source = Root(root)
    read = READERS[name].read
    raw = {split: merge([read(source, one, split=split) for one in paths.each]) for split, paths in files.items()}
    categories, notes = choose_classes({split: found.categories for split, found in raw.items()}, classes)
    for split, found in raw.items():
        if not found.num_images:
            raise ValueError(f"data.{split}: {source.shown(files[split].annotations)} names no image; name another")
    pictures = {split: inspect_pictures(source, found.images, split=split, cache=cache) for split, found in raw.items()}
    if cut is not None:
        notes += _cut_train(raw, pictures, categories, difficult, cut)
    splits = {
        split: check_split(source, raw[split], pictures[split], categories, split=split, difficult=difficult)
        for split in SPLITS
        if split in raw
    }
    if checks is not None:
        splits = {split: apply_checks(found, checks, name=split) for split, found in splits.items()}
        pairs = name_pairs([category["name"] for category in categories])
        refuse(splits, pairs, checks)
        notes += [f"class names {first!r} and {second!r} differ by case or blanks alone" for first, second in pairs]
    return splits, [*notes, *(f"{name}: {note}" for name, split in splits.items() for note in split.notes)]


def _cut_train(
    raw: dict[str, RawSplit],
    pictures: dict[str, list[Picture]],
    categories: Sequence[CocoCategory],
    difficult: Difficult,
    cut: Cut,
) -> list[str]:
    """Replace train by the parts of a cut; return notes."""
    whole, seen = raw["train"], pictures["train"]
    chosen, notes = choose_splits(whole.images, seen, count_boxes(whole, seen, categories, difficult), cut)
    raw.update(divide(whole, chosen, cut.parts))
    for part in cut.parts:
        pictures[part] = [picture for picture, split in zip(seen, chosen, strict=True) if split == part]
    return notes
