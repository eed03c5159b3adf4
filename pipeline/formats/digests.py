"""SHA-256 of local files, cached by size, modification time and inode."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

# Two changes within the time resolution of the file system look the same, so recent files are read again.
YOUNG_NS = 2_000_000_000

Known = dict[str, tuple[list[int], str]]


class Digests:
    """Cache of digests in a file, by path, size, modification time and inode; thread-safe.

    Args:
        path: the cache file; an unreadable one counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = _load(path)
        self.seen: Known = {}

    def of(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return size and digest of a file.

        Args:
            info: as fsspec describes it; only its name is taken.
        """
        path = Path(info["name"])
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        known, digest = self.known.get(str(path), ([], ""))
        if known != state:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - status.st_mtime_ns > YOUNG_NS:
            self.seen[str(path)] = (state, digest)
        return {"bytes": status.st_size, "sha256": digest}

    def keep(self) -> None:
        """Write the digests of the files seen in this run; drop the others."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        unfinished.write_text(json.dumps(self.seen), encoding="utf-8")
        unfinished.replace(self.path)


def _load(path: Path) -> Known:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: (list(state), str(digest)) for name, (state, digest) in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
