"""What stays of a run that has ended, once only resuming would need the rest: the best detector and the history.

They lie in <run>/finished/, sealed as a checkpoint is. A run that is asked for again gives its outputs from there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fsspec

from pipeline.runs.identity import BEST, ROWS, RunFolder
from pipeline.runs.seals import DIGESTS, check_whole, seal
from pipeline.storage.stores import complaint

ENDED = "ended"
"""The text in a run's folder that says how many epochs it has trained to its end."""
KEPT = "finished"

Exported = TypeVar("Exported")


def keep_finished(storage: str, name: str) -> None:
    """Copy the detector and the history of a run's newest whole checkpoint into <run>/finished/.

    Raises:
        ValueError: when no checkpoint is whole, or what was written does not read back; nothing may be removed then.
    """
    from pipeline.cluster.storage import Checkpoints  # Ray Train takes 2 s to be imported

    checkpoints = Checkpoints.of(storage, name)
    newest = checkpoints.newest(lambda text: print(f"warning: run {name}: {text}", flush=True))
    if newest is None:
        raise ValueError(f"run {name} has no whole checkpoint to keep its detector of; its folder is left as it is")
    with checkpoints.opened(newest) as folder, tempfile.TemporaryDirectory() as temporary:
        for file in (BEST, ROWS):
            (Path(temporary) / file).write_bytes((folder / file).read_bytes())
        seal(Path(temporary))
        system, target = fsspec.url_to_fs(f"{storage.rstrip('/')}/{name}/{KEPT}")
        system.makedirs(target, exist_ok=True)
        for file in (BEST, ROWS, DIGESTS):  # the seal last: without it the others do not count
            system.put_file(f"{temporary}/{file}", f"{target}/{file}")
    if export_finished(RunFolder(storage, name), lambda path: True) is None:
        raise ValueError(f"run {name} could not be kept in {KEPT}/; its folder is left as it is")


def is_finished(folder: RunFolder) -> bool:
    """Whether a run has ended and keeps what its outputs are made of."""
    return folder.read(f"{KEPT}/{DIGESTS}") is not None


def export_finished(folder: RunFolder, export: Callable[[Path], Exported]) -> Exported | None:
    """Call `export` with a folder of this machine that holds detector and history; None where nothing is kept.

    Raises:
        ValueError: saying what is wrong with what is kept, or that the storage does not answer.
    """
    if not is_finished(folder):
        return None
    with tempfile.TemporaryDirectory() as temporary:
        try:
            system, source = fsspec.url_to_fs(f"{folder.url}/{KEPT}")
            for file in (BEST, ROWS, DIGESTS):
                system.get_file(f"{source}/{file}", f"{temporary}/{file}")
        except OSError as error:
            raise ValueError(complaint(folder.url, error)) from error
        try:
            check_whole(Path(temporary))
        except ValueError as error:
            raise ValueError(
                f"{folder.url}/{KEPT} is damaged ({error}); set resume: never in conf/ to train this run again"
            ) from None
        return export(Path(temporary))
