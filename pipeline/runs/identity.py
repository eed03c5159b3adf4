"""Which run this is: a digest of all that decides its result, and a lock so that only one process trains it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock, Timeout

from pipeline.storage.outs import write_whole
from pipeline.storage.stores import complaint, retry

SECONDS_BETWEEN_WORDS = 30
BEST = "detector.pt"
"""In a checkpoint: the best detector so far."""
ROWS = "history.json"
"""In a checkpoint: the rows of the epochs, for those who read it without torch."""
CHECKPOINT = "checkpoint_"
"""How the folders of checkpoints begin within that of a run."""

RUN_ID = "mlflow_run_id"  # the text in a run's folder that says which run of the tracker is its own


def digest_run(values: Mapping[str, Any], files: Sequence[Path]) -> str:
    """16 hexadecimal digits of parameters and of the bytes of files: the same experiment has the same digest.

    Raises:
        ValueError: naming the file, when one is missing.
    """
    content = {"values": values, "files": [digest_file(path) for path in files]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the stage before (`dvc repro` does)") from None


class RunFolder:
    """A run's own folder in the storage, beside Ray's checkpoints: small texts by name.

    Args:
        storage: folder or URL.
    """

    def __init__(self, storage: str, digest: str) -> None:
        self.url = f"{storage.rstrip('/')}/{digest}"

    def read(self, name: str) -> str | None:
        """The text of that name, None where there is none.

        Raises:
            ValueError: naming the storage, when it does not answer.
        """

        def get() -> str:
            with fsspec.open(f"{self.url}/{name}", "r") as file:
                text: str = file.read()
            return text

        try:
            return retry(get)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(complaint(self.url, error)) from error

    def put_aside(self) -> str | None:
        """Give the folder another name; the new name, None where there is no folder.

        Raises:
            ValueError: naming the storage, when it does not answer.
        """
        aside = f"{self.url}.{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url)
            if not filesystem.exists(path):
                return None
            filesystem.mv(path, filesystem._strip_protocol(aside), recursive=True)
        except OSError as error:
            raise ValueError(complaint(self.url, error)) from error
        return aside

    def write(self, name: str, text: str) -> None:
        """Keep a text, whole or not at all.

        Raises:
            ValueError: naming the storage, when it cannot be written.
        """

        def put() -> None:
            if "://" not in self.url:
                write_whole(Path(self.url) / name, lambda temporary: temporary.write_text(text))
                return
            with fsspec.open(f"{self.url}/{name}", "w", auto_mkdir=True) as file:  # appears when it is closed
                file.write(text)

        try:
            retry(put)
        except OSError as error:
            raise ValueError(complaint(self.url, error)) from error


@contextmanager
def lock_run(folder: Path, digest: str) -> Iterator[Path]:
    """Hold a run, so that an orphan of a killed `dvc repro` does not train beside its successor.

    Waits for the other process and says so; its work is not lost, because this one then resumes it. The system frees
    the lock of a process that dies. Processes on other machines are kept off by a lease (pipeline.runs.lease).

    Yields:
        The file of the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{digest}.pid"
    lock = FileLock(folder / f"{digest}.lock")
    patience = 0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            process = holder.read_text().strip() if holder.exists() else "unknown"
            print(f"run {digest} is being trained by process {process}; waiting for it to end", flush=True)
            patience = SECONDS_BETWEEN_WORDS
    try:
        holder.write_text(f"{os.getpid()}\n")
        yield folder / f"{digest}.lock"
    finally:
        lock.release()
