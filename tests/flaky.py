"""A store in memory, flaky://, some of whose writes fail, as those of a bucket that is asked too often."""

from __future__ import annotations

import errno
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

SLOW_DOWN = "When creating key 'k' in bucket 'b': AWS Error SLOW_DOWN during PutObject operation: Please reduce"
"""As pyarrow says it, without an errno."""


class FlakyStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Fails every n-th write, and counts all.

    Attributes:
        every: 1 fails all of them, 0 none.
        error: what a write fails with.
    """

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012  # as fsspec's own
    pseudo_dirs = [""]  # noqa: RUF012
    every, writes = 0, 0
    error = OSError(SLOW_DOWN)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("flaky://")))

    @classmethod
    def reset(cls, *, every: int = 0, error: OSError | None = None) -> None:
        """An empty store."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.every, cls.writes, cls.error = every, 0, error or OSError(SLOW_DOWN)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            FlakyStore.writes += 1
            if self.every and self.writes % self.every == 0:
                raise self.error
        return super()._open(path, mode, **options)


def full_disk() -> OSError:
    """What a file system without room answers."""
    return OSError(errno.ENOSPC, "No space left on device")


fsspec.register_implementation("flaky", FlakyStore, clobber=True)
