"""The archive of a finished run: best detector and history, without the state that only resuming would need.

It lies in <run>/finished/, with checksums as in a checkpoint. A finished run that is requested again gets its outputs
from there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fsspec

from pipeline.runs.checksums import CHECKSUMS, verify_checksums, write_checksums
from pipeline.runs.identity import ARCHIVE, BEST, ROWS, RunFolder
from pipeline.storage.stores import complaint

Exported = TypeVar("Exported")


def archive_run(storage: str, name: str) -> None:
    """Copy the detector and the history of a run's newest intact checkpoint to <run>/finished/.

    Raises:
        ValueError: when no checkpoint is intact, or the copy does not read back; nothing may be removed then.
    """
    from pipeline.cluster.storage import Checkpoints  # Ray Train takes 2 s to be imported

    checkpoints = Checkpoints.of(storage, name)
    newest = checkpoints.newest(lambda text: print(f"warning: run {name}: {text}", flush=True))
    if newest is None:
        raise ValueError(f"run {name} has no complete checkpoint to take its detector from; its folder was not changed")
    with checkpoints.opened(newest) as folder, tempfile.TemporaryDirectory() as temporary:
        for file in (BEST, ROWS):
            (Path(temporary) / file).write_bytes((folder / file).read_bytes())
        write_checksums(Path(temporary))
        system, target = fsspec.url_to_fs(f"{storage.rstrip('/')}/{name}/{ARCHIVE}")
        system.makedirs(target, exist_ok=True)
        for file in (BEST, ROWS, CHECKSUMS):  # the checksums last: without them the others do not count
            system.put_file(f"{temporary}/{file}", f"{target}/{file}")
    if export_archive(RunFolder(storage, name), lambda path: True) is None:
        raise ValueError(f"the detector of run {name} could not be stored in {ARCHIVE}/; nothing was removed")


def is_archived(folder: RunFolder) -> bool:
    """Return whether a run has finished and its archive is there."""
    return folder.read(f"{ARCHIVE}/{CHECKSUMS}") is not None


def export_archive(folder: RunFolder, export: Callable[[Path], Exported]) -> Exported | None:
    """Call `export` with a local folder that holds detector and history; return None if there is no archive.

    Raises:
        ValueError: when the archive is damaged, or the storage does not answer.
    """
    if not is_archived(folder):
        return None
    with tempfile.TemporaryDirectory() as temporary:
        try:
            system, source = fsspec.url_to_fs(f"{folder.url}/{ARCHIVE}")
            for file in (BEST, ROWS, CHECKSUMS):
                system.get_file(f"{source}/{file}", f"{temporary}/{file}")
        except OSError as error:
            raise ValueError(complaint(folder.url, error)) from error
        try:
            verify_checksums(Path(temporary))
        except ValueError as error:
            raise ValueError(
                f"{folder.url}/{ARCHIVE} is damaged ({error}); set resume: never in conf/ to train this run again"
            ) from None
        return export(Path(temporary))
