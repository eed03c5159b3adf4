"""What `prepare` found in local pictures, so that a second run opens only new and changed ones.

A picture counts as unchanged if size, modification time and inode are, as in git. Another version of Pillow or of the
checks begins a new cache.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from pipeline.formats.digests import YOUNG_NS

# Raise it when a check finds other things in the same picture.
VERSION = 2


class Picture(NamedTuple):
    """Properties of an image that decodes, or the error."""

    size: tuple[int, int]
    """width, height in px, with EXIF orientation applied"""
    sha256: str
    fault: str | None = None
    refusal: str | None = None
    """its pixel format, if it cannot be scaled to 0..255"""
    brightest: int | None = None
    """maximum of a 16-bit greyscale image"""
    kind: str = ""
    """what it is, if not 8-bit RGB or grey"""
    is_grey: bool = False
    """whether it is stored in greyscale"""
    orientation: int = 1
    """of its EXIF data, 1 (upright) to 8"""
    thumbnail: bytes = b""
    """rows of THUMBNAIL x THUMBNAIL grey levels"""


class State(NamedTuple):
    """What tells that a file has changed."""

    size: int
    time_ns: int
    inode: int


class PictureCache:
    """A cache in a file, which counts as empty if it cannot be read.

    Args:
        path: of the SQLite database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self, files: Mapping[str, State]) -> dict[str, Picture]:
        """Return what is known of the files that have not changed, by path."""
        with suppress(sqlite3.DatabaseError, ValueError, TypeError), closing(self._connect()) as database:
            rows = database.execute("SELECT path, state, fields, thumbnail FROM pictures")
            return {
                path: _restore(json.loads(fields), thumbnail)
                for path, state, fields, thumbnail in rows
                if path in files and list(files[path]) == json.loads(state)
            }
        return {}

    def keep(self, pictures: Iterable[tuple[str, State, Picture]]) -> None:
        """Add pictures; files that changed within the time resolution of the file system are left out."""
        oldest = time.time_ns() - YOUNG_NS
        rows = [
            (path, json.dumps(state), json.dumps(picture._asdict() | {"thumbnail": ""}), picture.thumbnail)
            for path, state, picture in pictures
            if state.time_ns < oldest
        ]
        if not rows:
            return
        try:
            self._write(rows)
        except sqlite3.DatabaseError:  # a damaged file, or of another program
            self.path.unlink(missing_ok=True)
            self._write(rows)

    def _write(self, rows: list[tuple[str, str, str, bytes]]) -> None:
        with closing(self._connect()) as database, database:
            database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path)
        mark = f"{VERSION} {PIL.__version__}"
        database.execute("CREATE TABLE IF NOT EXISTS mark (value TEXT)")
        if database.execute("SELECT value FROM mark").fetchall() != [(mark,)]:
            with database:
                database.execute("DELETE FROM mark")
                database.execute("INSERT INTO mark VALUES (?)", (mark,))
                database.execute("DROP TABLE IF EXISTS pictures")
                database.execute(
                    "CREATE TABLE pictures (path TEXT PRIMARY KEY, state TEXT, fields TEXT, thumbnail BLOB)"
                )
        return database


def _restore(fields: dict[str, Any], thumbnail: bytes) -> Picture:
    """Build a picture from its row."""
    width, height = fields.pop("size")
    return Picture(**fields | {"size": (width, height), "thumbnail": thumbnail})


def state_of(path: str) -> State | None:
    """Return the state of a file; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return State(status.st_size, status.st_mtime_ns, status.st_ino)
