"""The folder or URL under which a data set lies. No path in a data set leaves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.params.paths import picture_root
from pipeline.stores import MISSING, explained  # registers s3:// and gs://

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
            data: bytes = self._system.cat_file(location)
        return data

    def has_file(self, path: str, *, named_by: str) -> bool:
        """Whether there is such a file; not fsspec's isfile, which takes a server that does not answer for a no."""
        location = self._locate(path, named_by=named_by)
        try:
            with explained(self.url):
                return bool(self._system.info(location)["type"] == "file")
        except MISSING:
            return False

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
