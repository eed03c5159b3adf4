"""Source files of a data set below its root, with digests, or with the metadata of their server.

A digest where the files are local, so that a copy of them in another clone is the same; elsewhere what a listing
says without reading them: size, and the time or tag of the last change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.formats.digests import Digests
from pipeline.formats.readers import READERS
from pipeline.formats.records import SplitFiles
from pipeline.formats.root import MISSING, THREADS, Root

# Metadata keys by which file systems report a change of a file.
MARKS = (
    *("ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "md5", "sha", "mtime"),
    *("Last-Modified", "LastModified", "last_modified", "modified", "updated", "created"),
)
Entry = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A file or folder below the root, and the parameter that names it."""

    path: str
    named_by: str


def read_from(
    root: Root, name: str, files: Mapping[str, SplitFiles], tables: Sequence[str] = ()
) -> tuple[list[Source], list[Source]]:
    """Return the annotation files and folders that a format reads, each once.

    Args:
        tables: of `data.columns`, read beside the annotation files.
    """
    annotations: list[Source] = []
    folders: list[Source] = []
    for split, paths in files.items():
        for one in paths.each:
            found, below = READERS[name].follow(root, one, split=split)
            annotations += [Source(path, f"data.{split}.annotations") for path in found]
            folders += [Source(path, f"data.{split}.images") for path in below]
    annotations += [Source(path, "data.columns.table") for path in tables]
    return _once(annotations), _once(folders)


def has_sources(
    root: Root,
    name: str,
    files: Mapping[str, SplitFiles],
    described: Mapping[str, Entry],
    tables: Sequence[str] = (),
) -> bool:
    """Return whether a manifest is of these files, as far as this shows without the data."""
    if READERS[name].asks_files:
        return {*tables, *(one.annotations for paths in files.values() for one in paths.each)} <= set(described)
    annotations, folders = read_from(root, name, files, tables)
    asked = {source.path for source in annotations} | {f"{source.path.rstrip('/')}/" for source in folders}
    return asked == set(described)


def describe(
    root: Root, name: str, files: Mapping[str, SplitFiles], digests: Digests, tables: Sequence[str] = ()
) -> dict[str, Entry]:
    """Return one entry per annotation file and folder, by path; equal as long as nothing has changed.

    Raises:
        ValueError: naming the parameter, when an annotation file is not there, or the root, when it does not answer.
    """
    annotations, folders = read_from(root, name, files, tables)
    mark = digests.of if root.is_local else _said
    described = {source.path: _describe_file(root, source, mark) for source in annotations}
    if not root.can_list:
        return described
    return described | {f"{source.path.rstrip('/')}/": _describe_folder(root, source, mark) for source in folders}


def _describe_file(root: Root, source: Source, mark: Callable[[Entry], Entry]) -> Entry:
    try:
        return mark(root.info(source.path, named_by=source.named_by))
    except MISSING as error:
        reason = f" ({error.__cause__})" if error.__cause__ else ""  # the cause that fsspec's http file system hides
        raise ValueError(
            f"{source.named_by}: there is no file {root.shown(source.path)}{reason}; check data.root and "
            f"{source.named_by} in params.yaml"
        ) from None


def _describe_folder(root: Root, source: Source, mark: Callable[[Entry], Entry]) -> Entry:
    """Return number and bytes of all files below, and a digest of their names and marks; zeros without the folder."""
    infos = dict(root.walk(source.path, named_by=source.named_by))
    names = sorted(infos)
    with ThreadPoolExecutor(THREADS) as pool:
        marks = list(pool.map(mark, [infos[name] for name in names]))
    text = json.dumps([names, marks], sort_keys=True)
    total = sum(entry["bytes"] or 0 for entry in marks)
    return {"files": len(names), "bytes": total, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _said(info: Entry) -> Entry:
    """Return size and mark of a file from its server's metadata."""
    return {"bytes": info.get("size")} | {key: str(info[key]) for key in MARKS if info.get(key) is not None}


def _once(sources: list[Source]) -> list[Source]:
    return list({source.path: source for source in reversed(sources)}.values())[::-1]
