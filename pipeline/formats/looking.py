"""`data.format: auto`: which format can read a folder, and with which files."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.formats.declared import declared_files
from pipeline.formats.readers import READERS
from pipeline.formats.records import SplitFiles
from pipeline.formats.root import Root
from pipeline.params.data import Data

AUTO = "auto"


class Resolved(NamedTuple):
    """How a data set is read; `sentence` says what `auto` took it for, and is empty for a declared format."""

    format: str
    files: dict[str, SplitFiles]
    sentence: str = ""


def resolve(data: Data) -> Resolved:
    """Return format and files of section `data`: as declared, or as the folder shows where the format is auto.

    Raises:
        ValueError: when no format, or more than one, can read the folder.
    """
    return look(Root(data.root)) if data.format == AUTO else Resolved(data.format, declared_files(data))


def look(root: Root) -> Resolved:
    """Recognise a data set by the names of its files and the beginnings of a few.

    Raises:
        ValueError: when no format, or more than one, can read the folder; with what was seen.
    """
    if not root.can_list:
        raise ValueError(f"data.format: {root.protocol} cannot list files, so auto sees nothing; name the format")
    paths = sorted(path for path, _ in root.walk("", named_by="data.root"))
    found = [(name, one) for name, reader in READERS.items() for one in reader.recognise(root, paths)]
    if len(found) == 1:
        ((name, one),) = found
        return Resolved(name, one.files, f"{root.url} is read as {name}, because of {one.evidence}")
    if not found:
        seen = f"among its {len(paths)} files, e.g. {', '.join(paths[:5])}" if paths else "because it is empty"
        raise ValueError(
            f"data.format: auto recognises no data set in {root.url} {seen}; name one of {', '.join(READERS)} and the "
            "files in section data, see docs/formats.md"
        )
    candidates = "".join(f"\n  {name}: {one.evidence}" for name, one in found)
    raise ValueError(
        f"data.format: {root.url} can be read in {len(found)} ways; set data.root to one of them, or name format and "
        f"files in section data:{candidates}"
    )


def as_settings(root: str, resolved: Resolved) -> dict[str, object]:
    """Return the values of section `data`, by dotted key, that read a data set without auto."""
    settings: dict[str, object] = {"data.format": resolved.format, "data.root": root}
    for split in ("train", "val", "test"):
        files = resolved.files.get(split)
        if files is None:
            settings[f"data.{split}"] = None
        else:
            several = [files.annotations, *files.more]
            settings[f"data.{split}.annotations"] = several if files.more else files.annotations
            settings[f"data.{split}.images"] = files.images or None
    return settings
