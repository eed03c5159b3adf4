"""The pictures that the arguments of the command name: files, folders, patterns, URLs, lists, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import fsspec

from pipeline.formats.recognised import IMAGE_SUFFIXES
from pipeline.predict.folder import MARK
from pipeline.storage.stores import explained

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
# Of a part of a name, bytes: file systems allow 255, with the suffix of a result and the mark of an unfinished file.
LONGEST_NAME = 200


class Source(NamedTuple):
    """A picture or a video.

    Attributes:
        location: path or URL.
        name: relative path under which its results are written, unique, without a suffix.
    """

    location: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether its name is that of a video."""
        return is_video(self.location)


def is_video(location: str) -> bool:
    """Whether a path or URL is that of a video."""
    return Path(location.partition("?")[0]).suffix.lower() in VIDEO_SUFFIXES


def find_pictures(arguments: Sequence[str]) -> list[Source]:
    """Return the pictures that the arguments name, in their order, those of a folder by name, each once.

    Raises:
        ValueError: naming an argument under which there is no picture.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        before = len(found)
        for location, name in _expand(argument):
            found.setdefault(location, name)
        if len(found) == before and not any(location == argument for location in found):
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise ValueError(f"{argument}: there is no picture; expected a file, or a folder with files {suffixes}")
    names = _make_unique(found)
    return [Source(location, name) for location, name in zip(found, names, strict=True)]


def _expand(argument: str) -> Iterator[tuple[str, str]]:
    """Yield location and name of every picture of one argument."""
    path = Path(argument).expanduser()
    if argument == "-":
        yield from _listed(sys.stdin.read().splitlines(), Path())
    elif "://" in argument:
        yield from _of_url(argument)
    elif path.is_dir():
        files = sorted(path.rglob("*"))
        results = {file.parent for file in files if file.name == MARK} - {path}  # of earlier runs
        for file in files:
            if file.suffix.lower() in SUFFIXES and file.is_file() and results.isdisjoint(file.parents):
                yield str(file), str(file.relative_to(path).with_suffix(""))
    elif path.suffix == ".txt" and path.is_file():
        yield from _listed(path.read_text(encoding="utf-8-sig").splitlines(), path.parent)
    elif path.is_file():
        yield str(path), path.stem
    else:
        for match in sorted(glob.glob(str(path), recursive=True)):
            if Path(match).is_file():
                yield match, Path(match).stem


def _listed(lines: Iterable[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the pictures of a list with one path or URL per line, relative to its folder."""
    for line in filter(None, map(str.strip, lines)):
        location = line if "://" in line else str(folder / Path(line).expanduser())
        yield location, Path(line.rpartition("/")[2]).stem


def _of_url(url: str) -> Iterator[tuple[str, str]]:
    """Yield the picture of a URL, or those of the folder of an object store."""
    if url.startswith(("http://", "https://")):  # a web server has no listing
        yield url, Path(unquote(url.partition("?")[0].rpartition("/")[2])).stem
        return
    with explained(url):
        system, base = fsspec.core.url_to_fs(url)
        files = sorted(system.find(base))
    protocol = url.partition("://")[0]
    for file in files:
        if Path(file).suffix.lower() in SUFFIXES or file == base:
            inner = file.removeprefix(base).lstrip("/") or file.rpartition("/")[2]
            yield f"{protocol}://{file}", str(Path(inner).with_suffix(""))


def _make_unique(found: Mapping[str, str]) -> list[str]:
    """Append a number to names that occur again; a name never leaves the folder of the results.

    Args:
        found: the name of each location.
    """
    plain = {location: _as_path(name) for location, name in found.items()}
    folders = {str(folder).lower() for name in plain.values() for folder in PurePosixPath(name).parents}
    taken: set[str] = set()
    next_number: dict[str, int] = {}
    unique = []
    for location, name in plain.items():
        free = name
        # The results of a video's frames are in a folder of its name, which pictures must not have.
        while free.lower() in taken or (is_video(location) and free.lower() in folders):
            number = next_number[name] = next_number.get(name, 1) + 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        unique.append(free)
    return unique


def _as_path(name: str) -> str:
    """A name as a relative path that every file system can have."""
    plain = name.replace("..", "_").replace("\0", "_").strip("/") or "picture"
    return "/".join(map(_shorten, plain.split("/")))


def _shorten(part: str) -> str:
    content = os.fsencode(part)
    return part if len(content) <= LONGEST_NAME else content[:LONGEST_NAME].decode(errors="ignore")
