"""The folder or URL under which a data set lies. No path in a data set leaves it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.params.paths import picture_root
from pipeline.storage.stores import MISSING, explained, retry  # registers s3:// and gs://

__all__ = ["MISSING", "THREADS", "Root", "check_stays_inside", "join"]

# Files read at once: enough to hide a network's latency, few enough for a laptop's disk.
THREADS = 8


@dataclass(frozen=True)
class Root:
    """Opens files by their path below `url`; all methods may be called from several threads."""

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
        """The bytes of a file; `named_by` is the file or parameter that named it, for the error."""
        location = self._locate(path, named_by=named_by)
        # No permission, or a server that does not answer, is not the data set's fault and must not drop a picture.
        with explained(self.url):
            data: bytes = retry(lambda: self._system.cat_file(location))
        return data

    def has_file(self, path: str, *, named_by: str) -> bool:
        """Whether there is such a file; not fsspec's isfile, which takes a server that does not answer for a no."""
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
        """How a URL of this file system begins, e.g. s3."""
        return str(self.url.partition("://")[0]) if not self.is_local else "file"

    def exists(self) -> bool:
        return bool(self._system.exists(self._base))

    def info(self, path: str, *, named_by: str) -> dict[str, Any]:
        """What the file system says of a file: name, size, type and whatever else it knows."""
        location = self._locate(path, named_by=named_by)
        with explained(self.url):
            found: dict[str, Any] = retry(lambda: self._system.info(location))
        return found

    def entries(self, folder: str, *, named_by: str) -> list[tuple[str, dict[str, Any]]]:
        """Names in a folder, each with what `info` says; none where there is no such folder.

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

    def shown(self, path: str) -> str:
        """The path as a person would type it."""
        return f"{self.url.rstrip('/')}/{path}"

    def _locate(self, path: str, *, named_by: str) -> str:
        check_stays_inside(path, named_by=named_by)
        # Always through this file system: a bare fsspec.open(url) would give "::" and "://" in a name a meaning.
        location = f"{self._base}/{path}"
        if isinstance(self._system, LocalFileSystem):
            self._check_links(location, path, named_by=named_by)
        return location

    def _check_links(self, location: str, path: str, *, named_by: str) -> None:
        target = Path(location).resolve()
        if not target.is_relative_to(Path(self._base).resolve()):
            raise ValueError(
                f"{named_by} names {path!r}, a link to {target}, outside the data set's root {self.url}; "
                "copy or hard-link the file, or set data.root to a folder that holds both"
            )


def _leads(info: dict[str, Any]) -> bool:
    return os.path.exists(info["name"])


def _followed(info: dict[str, Any]) -> dict[str, Any]:
    """A local file's info under the name of what it links to."""
    name = os.path.realpath(info["name"])
    return {**info, "name": name, "type": "directory" if os.path.isdir(name) else "file"}


def check_stays_inside(path: str, *, named_by: str) -> None:
    """A path in a data set is relative and never climbs, on whatever system it was written.

    Percent signs are decoded first, because a web server would decode them.
    """
    plain = unquote(path).replace("\\", "/")
    climbs = ".." in plain.split("/")
    absolute = plain.startswith("/") or bool(PureWindowsPath(path).drive)
    if climbs or absolute or "\0" in plain or "://" in plain or "::" in plain:
        raise ValueError(
            f"{named_by} names {path!r}, which is not a relative path below the data set's root; "
            "write it relative to data.root, without '..', drive letter or URL"
        )


def join(folder: str, name: str) -> str:
    """A path below a folder of the root; "" and "." are the root itself."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    return "/".join([*parts, name])
