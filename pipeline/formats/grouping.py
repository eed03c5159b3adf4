"""Images that belong together: by a column or by their names, by Roboflow's names, and as copies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.formats.duplicates import Indices, label_groups
from pipeline.params.data import GroupBy

# Roboflow exports augmented copies of NAME.jpg as NAME_jpg.rf.HASH.jpg.
ROBOFLOW = re.compile(r"([^/]+)\.rf\.[0-9A-Za-z]+\.[A-Za-z]+")


def group_names(path: str, group: GroupBy, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the groups to which an image belongs by its path and its columns, by kind.

    Args:
        path: relative to the data set's root.
        group: `data.split.group`: a column, or a regular expression, whose first group names the image's group, or the
            whole match if it has none.
        columns: of the image.
    """
    names = {}
    if name := _group_name(path, group, columns):
        names["group"] = name
    if (export := ROBOFLOW.fullmatch(path.rpartition("/")[2])) is not None:
        names["Roboflow name"] = export[1]
    return names


def _group_name(path: str, group: GroupBy, columns: Mapping[str, str]) -> str | None:
    if group is None:
        return None
    if not isinstance(group, str):
        return columns.get(group.column)
    found = re.search(group, path)
    return found[1 if found.re.groups else 0] if found is not None else None


def label_images(names: Sequence[Sequence[object]]) -> Indices:
    """Return the number of the group [N] of each of N images; those that share a name are of one group."""
    first: dict[object, int] = {}
    pairs = [(first.setdefault(name, index), index) for index, own in enumerate(names) for name in own]
    return label_groups(len(names), np.array(pairs, np.int64).reshape(-1, 2))
