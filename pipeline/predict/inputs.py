"""The pictures that the arguments of the command name: files, folders, patterns, URLs, lists, standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import fsspec

from pipeline.formats.recognised import IMAGE_SUFFIXES
from pipeline.storage.stores import explained

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


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
        return Path(self.location.partition("?")[0]).suffix.lower() in VIDEO_SUFFIXES


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
    names = _make_unique(found.values())
    return [Source(location, name) for location, name in zip(found, names, strict=True)]


def _expand(argument: str) -> Iterator[tuple[str, str]]:
    """Yield location and name of every picture of one argument."""
    path = Path(argument).expanduser()
    if argument == "-":
        yield from _listed(sys.stdin.read().splitlines(), Path())
    elif "://" in argument:
        yield from _of_url(argument)
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file():
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


def _make_unique(names: Iterable[str]) -> list[str]:
    """Append a number to names that occur again; a name never leaves the folder of the results."""
    taken: set[str] = set()
    next_number: dict[str, int] = {}
    unique = []
    for name in names:
        plain = free = name.replace("..", "_").strip("/") or "picture"
        while free.lower() in taken:
            number = next_number[plain] = next_number.get(plain, 1) + 1
            free = f"{plain}_{number}"
        taken.add(free.lower())
        unique.append(free)
    return unique
