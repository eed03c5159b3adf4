"""What a format finds in a folder of which only the names of the files are known, and what names tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.formats.records import SplitFiles

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# As cameras write them.
CAPITAL_SUFFIXES = (".JPG", ".JPEG", ".PNG")
# The words by which data sets call their splits.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Recognised(NamedTuple):
    """A data set as one format would read it.

    Attributes:
        files: of `train`, and of `val` and `test` where the data set has them; keys in this order.
        evidence: what shows the format, to stand after "because of": "train.json, which has images and categories".
    """

    files: dict[str, SplitFiles]
    evidence: str


def split_or_train(path: str) -> str:
    """Return the split that the words of a path name; train if they name none."""
    split = split_of(path)
    return "train" if split is None else split


def split_of(path: str) -> str | None:
    """Return the split that the words of a path name, the last one first: `valid/_annotations.json` is of val."""
    for word in reversed(re.findall("[a-z]+", path.lower())):
        if word in SPLIT_WORDS:
            return SPLIT_WORDS[word]
    return None


def by_split(paths: Iterable[str]) -> dict[str, list[str]]:
    """Group paths by the split that they name, in the order train, val, test; those that name none are of train."""
    groups: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for path in paths:
        groups[split_or_train(path)].append(path)
    return {split: found for split, found in groups.items() if found}


def image_folder(paths: Sequence[str], name: str, *, beside: str) -> str | None:
    """Return the folder to which an image's name is relative, "" for the root; None if there is no such image.

    Args:
        paths: of all files of the data set.
        name: as an annotation file writes it, e.g. `a.jpg` or `train/a.jpg`.
        beside: the annotation file; of several folders with such an image, the one nearest to it counts.
    """
    plain = name.replace("\\", "/").removeprefix("./").lstrip("/")
    folders = [path.removesuffix(plain).rstrip("/") for path in paths if path == plain or path.endswith(f"/{plain}")]
    return max(folders, key=lambda folder: _nearness(folder, beside), default=None)


def first_text(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the JSON string that a pattern finds in a text, which need not be whole JSON; None if there is none."""
    found = pattern.search(text)
    try:
        return str(json.loads(found[1])) if found else None
    except ValueError:  # a control character
        return None


def image_names(stem: str) -> list[str]:
    """Return the names that the image of an annotation file may have, the likeliest first."""
    return [stem + suffix for suffix in (*IMAGE_SUFFIXES[:3], *CAPITAL_SUFFIXES, *IMAGE_SUFFIXES[3:])]


def files_of_folders(images: Mapping[str, str | None]) -> dict[str, SplitFiles]:
    """Return the files of each split, for a format with folders of annotation files.

    A folder stands for its subfolders too. A split whose folders have their images in different places is left out.

    Args:
        images: by folder, "" for the root: where its images are, None if there are none.
    """
    topmost = [folder for folder in images if not any(_is_below(folder, other) for other in images)]
    splits: dict[str, SplitFiles] = {}
    for split, folders in by_split(topmost).items():
        places = {images[folder] for folder in folders}
        if None not in places and len(places) == 1:
            first, *more = [folder or "." for folder in folders]
            splits[split] = SplitFiles(first, images[folders[0]] or "", tuple(more))
    return splits


def _is_below(folder: str, other: str) -> bool:
    return folder != other and (not other or folder.startswith(f"{other}/"))


def _nearness(folder: str, file: str) -> tuple[bool, int, int]:
    """Rank a folder: the same split, then more parts in common, then the shorter path."""
    parts, others = folder.split("/"), file.split("/")[:-1]
    common = sum(one == other for one, other in zip(parts, others, strict=False))
    return split_of(folder) == split_of(file), common, -len(folder)
