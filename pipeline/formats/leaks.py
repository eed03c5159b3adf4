"""Leaks: what two splits share, as the same file, as near-identical images or as images of one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.formats.duplicates import Copies, search_copies
from pipeline.formats.grouping import group_names
from pipeline.formats.records import Split
from pipeline.params.data import GroupBy

Leak = dict[str, Any]
# Kinds of leaks, and how many there are in words.
COUNTED = {
    "identical": "identical files ({})",
    "near-identical": "near-identical images ({})",
    "group": "images of one group of data.split.group ({})",
    "Roboflow name": "images that Roboflow made from one ({})",
}


def find_leaks(splits: Mapping[str, Split], *, group: GroupBy = None, duplicates: float | None = None) -> list[Leak]:
    """Return what the splits share; metrics on such images are not meaningful.

    Args:
        group: see `group_names`.
        duplicates: correlation of near-identical images, see `find_copies`; None: do not search for them.

    Returns:
        leaks with their `kind` and the `images` of each split; with `sha256` of identical files, with `pairs` of images
        that connect the splits where they are near-identical, with the `name` of a group.
    """
    images = [
        _Image(name, record["file_name"], record["sha256"], record.get("columns", {}))
        for name, split in splits.items()
        for record in split.coco["images"]
    ]
    files: defaultdict[str, list[_Image]] = defaultdict(list)
    groups: defaultdict[tuple[str, str], list[_Image]] = defaultdict(list)
    for image in images:
        files[image.sha256].append(image)
        for kind, name in group_names(image.path, group, image.columns).items():
            groups[kind, name].append(image)
    pictures = {
        record["sha256"]: split.thumbnails[record["id"]]
        for split in splits.values()
        for record in split.coco["images"]
        if record["id"] in split.thumbnails
    }
    leaks = [_leak("identical", found, sha256=digest) for digest, found in files.items()]
    if duplicates is not None:
        leaks += _find_near_identical(files, _copies(splits, pictures, duplicates))
    leaks += [_leak(kind, found, name=name) for (kind, name), found in groups.items()]
    return [leak for leak in leaks if len(leak["images"]) > 1]


class _Image(NamedTuple):
    split: str
    path: str
    sha256: str
    columns: Mapping[str, str]


def _copies(splits: Mapping[str, Split], pictures: Mapping[str, bytes], similarity: float) -> Copies:
    """Return the near-identical pictures: those that the cut was made by, unless images were dropped since.

    Args:
        pictures: the thumbnail of each file; drawn images have none.
    """
    known = next((split.copies for split in splits.values()), None)
    is_same = known is not None and known.similarity == similarity and known.groups.keys() == pictures.keys()
    return known if known is not None and is_same else search_copies(pictures, similarity)


def _find_near_identical(files: Mapping[str, Sequence[_Image]], copies: Copies) -> list[Leak]:
    """Return near-identical images of several splits; those of one file are left out.

    Args:
        files: the images of each file, by its digest.
    """
    images: defaultdict[int, list[_Image]] = defaultdict(list)
    crossing: defaultdict[int, list[dict[str, str]]] = defaultdict(list)
    for digest, label in copies.groups.items():
        images[label] += files[digest]
    for one, other in copies.pairs:
        of_several = [(a, b) for a in files[one] for b in files[other] if a.split != b.split]
        crossing[copies.groups[one]] += [{a.split: a.path, b.split: b.path} for a, b in of_several[:1]]
    return [_leak("near-identical", images[label], pairs=found) for label, found in crossing.items() if found]


def _leak(kind: str, images: Sequence[_Image], **shared: Any) -> Leak:
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        paths[image.split].append(image.path)
    return {"kind": kind, "images": dict(paths), **shared}


def describe_leaks(leaks: Sequence[Leak]) -> list[str]:
    """Return one line for each kind of leak, with the number of leaks and an example."""
    lines = []
    for kind in dict.fromkeys(leak["kind"] for leak in leaks):
        found = [leak for leak in leaks if leak["kind"] == kind]
        first = found[0]
        pair = first["pairs"][0] if "pairs" in first else {split: paths[0] for split, paths in first["images"].items()}
        example = ", ".join(f"{path} of {split}" for split, path in pair.items())
        lines.append(f"in several splits: {COUNTED[kind].format(len(found))}, e.g. {example}")
    return lines
