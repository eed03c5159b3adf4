"""Source files of a data set below its root, with digests, or with the metadata of their server.

A digest where the files are local, so that a copy of them in another clone is the same; elsewhere what a listing
says without reading them: size, and the time or tag of the last change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pipeline.formats.digests import Digests
from pipeline.formats.records import SplitFiles
from pipeline.formats.root import MISSING, THREADS, Root
from pipeline.formats.voc import annotations_folder

# Metadata keys by which file systems report a change of a file.
MARKS = (
    *("ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "md5", "sha", "mtime"),
    *("Last-Modified", "LastModified", "last_modified", "modified", "updated", "created"),
)
# A web server has no listing: HEAD requests for all images take an hour, a listing takes seconds.
UNLISTED = ("http", "https")
# Files created by desktop environments.
NOISE = (".DS_Store", "Thumbs.db")

Entry = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A file or folder below the root, and the parameter that names it."""

    path: str
    named_by: str


def read_from(name: str, files: Mapping[str, SplitFiles]) -> tuple[list[Source], list[Source]]:
    """Return the annotation files and folders that a format reads, each once."""
    annotations = [Source(paths.annotations, f"data.{split}.annotations") for split, paths in files.items()]
    folders = [Source(paths.images, f"data.{split}.images") for split, paths in files.items()]
    if name == "voc":
        folders += [Source(annotations_folder(each.path), each.named_by) for each in annotations]
    return _once(annotations), _once(folders)


def describe(root: Root, name: str, files: Mapping[str, SplitFiles], digests: Digests) -> dict[str, Entry]:
    """Return one entry per annotation file and folder, by path; equal as long as nothing has changed.

    Raises:
        ValueError: naming the parameter, when an annotation file is not there, or the root, when it does not answer.
    """
    annotations, folders = read_from(name, files)
    mark = digests.of if root.is_local else _said
    described = {source.path: _describe_file(root, source, mark) for source in annotations}
    if not is_listed(root):
        return described
    return described | {f"{source.path.rstrip('/')}/": _describe_folder(root, source, mark) for source in folders}


def is_listed(root: Root) -> bool:
    """Return whether the root's file system can list folders."""
    return root.protocol not in UNLISTED


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
    infos = dict(_walk(root, source.path, named_by=source.named_by))
    names = sorted(infos)
    with ThreadPoolExecutor(THREADS) as pool:
        marks = list(pool.map(mark, [infos[name] for name in names]))
    text = json.dumps([names, marks], sort_keys=True)
    total = sum(entry["bytes"] or 0 for entry in marks)
    return {"files": len(names), "bytes": total, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _walk(root: Root, folder: str, *, named_by: str) -> Iterator[tuple[str, Entry]]:
    """Yield every file below a folder of the root: (path below the folder, fsspec's info)."""
    ahead: list[str] = [""]
    entered: set[str] = set()
    while ahead:
        inner = ahead.pop()
        for name, info in sorted(root.entries(f"{folder}/{inner}", named_by=named_by), key=itemgetter(0)):
            path = f"{inner}/{name}".lstrip("/")
            if info["type"] != "directory" and name not in NOISE:
                yield path, info
            elif info["type"] == "directory" and info["name"] not in entered:  # links may form a cycle
                entered.add(info["name"])
                ahead.append(path)


def _said(info: Entry) -> Entry:
    """Return size and mark of a file from its server's metadata."""
    return {"bytes": info.get("size")} | {key: str(info[key]) for key in MARKS if info.get(key) is not None}


def _once(sources: list[Source]) -> list[Source]:
    return list({source.path: source for source in reversed(sources)}.values())[::-1]
