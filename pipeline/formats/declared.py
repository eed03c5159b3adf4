"""The annotation files and image folders that section `data` of params.yaml names."""

from __future__ import annotations

from pipeline.formats.records import SplitFiles
from pipeline.params.data import Data, Split


def declared_files(data: Data) -> dict[str, SplitFiles]:
    """Return the files of each split that the section has, in the order train, val, test."""
    sections = {"train": data.train, "val": data.val, "test": data.test}
    return {name: _files(section) for name, section in sections.items() if section is not None}


def _files(section: Split) -> SplitFiles:
    given = section.annotations or ""
    first, *more = given if isinstance(given, list) else [given]
    return SplitFiles(first, section.images or "", tuple(more))
