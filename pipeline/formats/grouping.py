"""Images that belong together: by a regular expression over their names, by Roboflow's names, and as copies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.formats.duplicates import Indices, find_copies, label_groups

# Roboflow exports augmented copies of NAME.jpg as NAME_jpg.rf.HASH.jpg.
ROBOFLOW = re.compile(r"([^/]+)\.rf\.[0-9A-Za-z]+\.[A-Za-z]+")


def group_names(path: str, pattern: str | None) -> dict[str, str]:
    """Return the names of the groups to which an image belongs by its path, by kind.

    Args:
        path: relative to the data set's root.
        pattern: of `data.split.group`; its first group names the image's group, or the whole match if it has none.
    """
    names = {}
    found = re.search(pattern, path) if pattern is not None else None
    if found is not None and (name := found[1 if found.re.groups else 0]):
        names["group"] = name
    if (export := ROBOFLOW.fullmatch(path.rpartition("/")[2])) is not None:
        names["Roboflow name"] = export[1]
    return names


def label_images(
    paths: Sequence[str],
    digests: Sequence[str],
    thumbnails: Sequence[bytes],
    *,
    pattern: str | None,
    similarity: float | None,
) -> Indices:
    """Return the number of the group [N] of each image; images of one group must not be in two splits.

    Args:
        paths, digests, thumbnails: of N images.
        pattern: see `group_names`.
        similarity: see `find_copies`; None: only identical files are copies.
    """
    named = [list(group_names(path, pattern).items()) for path in paths]
    pairs = [_pairs_of_equals([[digest] for digest in digests]), _pairs_of_equals(named)]
    if similarity is not None:
        pairs.append(find_copies(thumbnails, similarity))
    return label_groups(len(paths), np.concatenate(pairs))


def _pairs_of_equals(names: Iterable[Sequence[object]]) -> Indices:
    """Return pairs [E, 2] of each item with the first one that shares a name with it."""
    first: dict[object, int] = {}
    pairs = [(first.setdefault(name, index), index) for index, own in enumerate(names) for name in own]
    return np.array(pairs, np.int64).reshape(-1, 2)
