"""The root folder or URL of a data set. No path in a data set may leave it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path, PureWindowsPath
from typing import IO, Any
from urllib.parse import unquote

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.formats.records import printable
from pipeline.params.paths import picture_root
from pipeline.storage.stores import MISSING, explained, retry  # registers s3:// and gs://

__all__ = ["MISSING", "THREADS", "Root", "check_stays_inside", "join"]

# Concurrent reads: enough to hide network latency, few enough for a laptop's disk.
THREADS = 8
# A web server has no listing: HEAD requests for all images take an hour, a listing takes seconds.
UNLISTED = ("http", "https")
# Files created by desktop environments.
NOISE = (".DS_Store", "Thumbs.db")


@dataclass(frozen=True)
class Root:
    """Opens files by their path below `url`; thread-safe."""

    url: str
    """a local folder or any URL that fsspec knows"""
    _system: AbstractFileSystem = field(init=False, repr=False, compare=False)
    _base: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        with explained(self.url):
            system, base = url_to_fs(picture_root(self.url))
        object.__setattr__(self, "_system", system)
        object.__setattr__(self, "_base", base.rstrip("/"))

    def read(self, path: str, *, named_by: str) -> bytes:
        """Return the bytes of a file; `named_by` is the file or parameter that names it, for the error."""
        location = self._locate(path, named_by=named_by)
        # A missing permission, or a server that does not answer, must not drop an image.
        with explained(self.url):
            data: bytes = retry(lambda: self._system.cat_file(location))
        return data

    def head(self, path: str, *, named_by: str, size: int = 2**20) -> bytes:
        """Return the first bytes of a file."""
        location = self._locate(path, named_by=named_by)
        with explained(self.url):
            data: bytes = retry(lambda: self._system.cat_file(location, start=0, end=size))
        return data

    @contextmanager
    def open(self, path: str, *, named_by: str) -> Iterator[IO[bytes]]:
        """Open a file to read it piece by piece."""
        location = self._locate(path, named_by=named_by)
        with explained(self.url), self._system.open(location, "rb") as stream:
            yield stream

    def has_file(self, path: str, *, named_by: str) -> bool:
        """Return whether the file exists; unlike fsspec's isfile, raise an error if the server does not answer."""
        location = self._locate(path, named_by=named_by)
        try:
            with explained(self.url):
                return bool(retry(lambda: self._system.info(location))["type"] == "file")
        except MISSING:
            return False

    @property
    def is_local(self) -> bool:
        return isinstance(self._system, LocalFileSystem)

    @property
    def protocol(self) -> str:
        """The protocol of this file system, e.g. s3."""
        return str(self.url.partition("://")[0]) if not self.is_local else "file"

    @property
    def can_list(self) -> bool:
        """Whether the file system can list folders."""
        return self.protocol not in UNLISTED

    def exists(self) -> bool:
        return bool(self._system.exists(self._base))

    def local_path(self, path: str) -> str | None:
        """Return where a file lies on this machine; None if the root is elsewhere."""
        return f"{self._base}/{path}" if self.is_local else None

    def info(self, path: str, *, named_by: str) -> dict[str, Any]:
        """Return fsspec's info on a file: name, size, type and more."""
        location = self._locate(path, named_by=named_by)
        with explained(self.url):
            found: dict[str, Any] = retry(lambda: self._system.info(location))
        return found

    def entries(self, folder: str, *, named_by: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the names in a folder, each with its `info`; empty if there is no such folder.

        Links of a local folder are followed, and left out where they lead nowhere.
        """
        inner = [part for part in folder.split("/") if part not in ("", ".")]
        location = self._locate("/".join(inner), named_by=named_by).rstrip("/")
        try:
            with explained(self.url):
                found = retry(lambda: self._system.ls(location, detail=True))
        except MISSING:
            return []
        infos = [info for info in found if info["name"].rstrip("/") != location]
        entries = [(info["name"].rstrip("/").rpartition("/")[2], info) for info in infos]
        return [(name, _followed(info)) for name, info in entries if _leads(info)] if self.is_local else entries

    def walk(self, folder: str, *, named_by: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every file below a folder: (path below the folder, fsspec's info)."""
        ahead: list[str] = [""]
        entered: set[str] = set()
        while ahead:
            inner = ahead.pop()
            for name, info in sorted(self.entries(f"{folder}/{inner}", named_by=named_by), key=itemgetter(0)):
                path = f"{inner}/{name}".lstrip("/")
                if info["type"] != "directory" and name not in NOISE:
                    yield path, info
                elif info["type"] == "directory" and info["name"] not in entered:  # links may form a cycle
                    entered.add(info["name"])
                    ahead.append(path)

    def below(self, folder: str, path: str) -> str | None:
        """Return a path as written in a folder of the root, relative to the root; None if it leads outside.

        An absolute path is accepted if it lies below a local root.
        """
        plain = path.replace("\\", "/")
        if self.is_local and plain.startswith(f"{self._base}/"):
            folder, plain = "", plain.removeprefix(f"{self._base}/")
        found = posixpath.normpath(posixpath.join(folder, plain))
        leaves = found.startswith(("/", "../")) or found == ".." or bool(PureWindowsPath(plain).drive)
        return None if leaves or "://" in plain else found

    def shown(self, path: str) -> str:
        """Return the full path or URL, for messages."""
        return f"{self.url.rstrip('/')}/{path}"

    def _locate(self, path: str, *, named_by: str) -> str:
        check_stays_inside(path, named_by=named_by)
        # Not fsspec.open(url), which interprets "::" and "://" in names.
        location = f"{self._base}/{path}"
        if isinstance(self._system, LocalFileSystem):
            self._check_links(location, path, named_by=named_by)
        return location

    def _check_links(self, location: str, path: str, *, named_by: str) -> None:
        target = Path(os.path.realpath(location))  # unlike resolve(), no RuntimeError for a link to itself
        if not target.is_relative_to(Path(self._base).resolve()):
            raise ValueError(
                f"{named_by} names {path!r}, a link to {target}, outside the data set's root {self.url}; "
                "copy or hard-link the file, or set data.root to a folder that holds both"
            )


def _leads(info: dict[str, Any]) -> bool:
    return os.path.exists(info["name"])


def _followed(info: dict[str, Any]) -> dict[str, Any]:
    """Return the info of a local file, with links resolved."""
    name = os.path.realpath(info["name"])
    return {**info, "name": name, "type": "directory" if os.path.isdir(name) else "file"}


def check_stays_inside(path: str, *, named_by: str) -> None:
    """A path in a data set is relative, never climbs, and is text, on whatever system it was written.

    Percent signs are decoded first, because a web server would decode them.
    """
    plain = unquote(path).replace("\\", "/")
    climbs = ".." in plain.split("/")
    absolute = plain.startswith("/") or bool(PureWindowsPath(path).drive)
    if climbs or absolute or "\0" in plain or "://" in plain or "::" in plain or not _is_file_name(path):
        raise ValueError(
            f"{named_by} names {path!r}, which is not a relative path below the data set's root; "
            "write it relative to data.root, without '..', drive letter or URL"
        )
    if printable(path) != path:
        raise ValueError(
            f"{named_by}: the name {path!r} is not UTF-8, as of an archive that was packed on Windows; rename the file"
        )


def _is_file_name(path: str) -> bool:
    """Return whether a file can have this name; a JSON file can hold halves of characters, a file system cannot."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def join(folder: str, name: str) -> str:
    """Join a path to a folder of the root; "" and "." are the root itself."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    return "/".join([*parts, name])
