"""The identity of a run: a digest of everything that determines its result, and a lock against a second process."""

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

from pipeline.storage.outs import write_atomic
from pipeline.storage.stores import complaint, retry

SECONDS_BETWEEN_WORDS = 30
BEST = "detector.pt"
"""File of a checkpoint: the best detector so far."""
ROWS = "history.json"
"""File of a checkpoint: one row per epoch, readable without torch."""
CHECKPOINT = "checkpoint_"
"""Prefix of the checkpoint folders in a run's folder."""
ENDED = "ended"
"""File in a run's folder: the number of epochs of a run that has finished."""
ARCHIVE = "finished"
"""Folder in a run's folder: best detector and history of a finished run, without what only resuming needs."""

SECTIONS = {"seed", "transforms", "matcher", "loss", "model", "optim", "train"}
"""Sections of params.yaml that decide the result of a training: those of stage train in dvc.yaml."""

RUN_ID = "mlflow_run_id"  # file in a run's folder that holds the id of its MLflow run


def digest_run(values: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits over parameters and file contents, equal for equal experiments.

    Raises:
        ValueError: naming the file, when one is missing.
    """
    content = {"values": values, "files": [digest_file(path) for path in files]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the preceding stage (`dvc repro` does)") from None


class RunFolder:
    """A run's folder in the storage, which holds small text files beside Ray's checkpoints.

    Args:
        storage: folder or URL.
    """

    def __init__(self, storage: str, digest: str) -> None:
        self.url = f"{storage.rstrip('/')}/{digest}"

    def read(self, name: str) -> str | None:
        """Return the text file of that name, None if there is none.

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
        """Rename the folder; return its new URL, None if there is no folder.

        Raises:
            ValueError: naming the storage, when it does not answer.
        """
        suffix = f".{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url)
            if not filesystem.exists(path):
                return None
            filesystem.mv(path, f"{path}{suffix}", recursive=True)
        except OSError as error:
            raise ValueError(complaint(self.url, error)) from error
        return f"{self.url}{suffix}"

    def write(self, name: str, text: str) -> None:
        """Write a text file atomically.

        Raises:
            ValueError: naming the storage, when it cannot be written.
        """

        def put() -> None:
            if "://" not in self.url:
                write_atomic(Path(self.url) / name, lambda temporary: temporary.write_text(text))
                return
            with fsspec.open(f"{self.url}/{name}", "w", auto_mkdir=True) as file:  # appears when it is closed
                file.write(text)

        try:
            retry(put)
        except OSError as error:
            raise ValueError(complaint(self.url, error)) from error


@contextmanager
def lock_run(folder: Path, digest: str) -> Iterator[Path]:
    """Lock a run, so that an orphan of a killed `dvc repro` does not train beside its successor.

    Waits for the other process, with a message; its work is not lost, because this process then resumes it. The
    operating system frees the lock of a process that dies. A lease (pipeline.runs.lease) excludes other machines.

    Yields:
        The lock file.
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
