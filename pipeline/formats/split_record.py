"""data/splits.json: the split of each image where prepare cuts them, so that new images do not move old ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.formats.cutting import Cut
from pipeline.formats.records import Split

EMPTY: dict[str, Any] = {"settings": {}, "splits": {}}


def add_record(path: Path, cut: Cut) -> Cut:
    """Return a cut that knows the images in the file; none if there is no file, or if it is of other settings.

    Raises:
        ValueError: when the file is not such a record.
    """
    if not path.exists():
        return cut
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, splits = content["settings"], dict(content["splits"])
        groups = dict(content.get("groups", {}))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a record of splits ({type(error).__name__}: {error}); restore it from git, or delete it to "
            "cut the splits anew"
        ) from None
    if settings != settings_of(cut):
        return cut
    for image, split in splits.items():
        if split not in cut.parts:
            raise ValueError(f"{path}: {image} is in {split!r}; expected one of {', '.join(cut.parts)}")
    columns = {} if cut.column is None else {image: {cut.column: str(name)} for image, name in groups.items()}
    return replace(cut, known=splits, known_columns=columns)


def build_record(splits: Mapping[str, Split], cut: Cut) -> dict[str, Any]:
    """Return the content of the file after a cut: the images that it knew and the new ones.

    An image that is missing now may come back, so its entry stays, unless its group is there under other paths, or
    nothing is left of what the file knew, because it was of another data set. An image that a policy drops has its
    entry, too: another policy may bring it back.
    """
    now = {path: split for split in cut.parts for path in splits[split].readable}
    columns = {path: own for split in cut.parts for path, own in splits[split].readable.items()}
    names = {name for path, own in columns.items() for name in cut.names(path, own).items()}
    missing = {path: split for path, split in cut.known.items() if path not in now}
    replaced = {path for path in missing if cut.names(path).items() & names}
    is_same_data = len(missing) < len(cut.known) or bool(replaced)
    kept = {path: split for path, split in missing.items() if is_same_data and path not in replaced}
    record = {"settings": settings_of(cut), "splits": {**now, **kept}}
    if cut.column is None:
        return record
    known = {**columns, **{path: cut.known_columns.get(path, {}) for path in kept}}
    return {**record, "groups": {path: own[cut.column] for path, own in known.items() if cut.column in own}}


def describe_record(content: Mapping[str, Any], cut: Cut) -> str:
    """Return how many images of a cut stayed where they were, in one sentence."""
    num_new = len(content["splits"].keys() - cut.known.keys())
    return f"{len(content['splits']) - num_new} images keep their split, {num_new} are new"


def settings_of(cut: Cut) -> dict[str, Any]:
    """Return what makes another cut."""
    group = cut.group if cut.column is None else {"column": cut.column}
    return {"fractions": dict(cut.fractions), "seed": cut.seed, "group": group, "duplicates": cut.duplicates}
