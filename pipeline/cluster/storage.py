"""Checkpoints of a run in its storage: written whole, checked when they are read, the newest good one found.

Ray keeps the two newest and deletes older ones. Which one to go on from is read from the storage itself, not from Ray's
notes on it, so that neither a damaged checkpoint nor damaged notes cost more than the steps since the one before.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train

from pipeline.runs.identity import CHECKPOINT
from pipeline.runs.seals import check_whole, seal

WriteCheckpoint = Callable[[Path], None]
"""Fills a folder."""

NOTES = "checkpoint_manager_snapshot.json"  # Ray's, without which it refuses to begin
COMPLAINTS = (OSError, ValueError)


class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        filesystem: of pyarrow.
        folder: in it.
    """

    def __init__(self, filesystem: Any, folder: str) -> None:
        self.filesystem, self.folder = filesystem, folder

    @classmethod
    def of(cls, storage: str, name: str) -> Checkpoints:
        """The checkpoints of the run of that name in a folder or at a URL."""
        filesystem, folder = pyarrow.fs.FileSystem.from_uri(storage if "://" in storage else str(Path(storage)))
        return cls(filesystem, f"{folder}/{name}")

    def names(self) -> list[str]:
        """Names of the checkpoints, the newest last."""
        found = self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.folder, allow_not_found=True))
        return sorted(
            entry.base_name for entry in found if entry.base_name.startswith(CHECKPOINT) and not entry.is_file
        )

    def checkpoint(self, name: str) -> ray.train.Checkpoint:
        """The checkpoint of that name, as Ray knows it."""
        return ray.train.Checkpoint(path=f"{self.folder}/{name}", filesystem=self.filesystem)

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """The checkpoint's folder on this machine, once it has been found whole.

        Raises:
            ValueError: saying what is wrong with it.
        """
        with self.checkpoint(name).as_directory() as folder:
            check_whole(Path(folder))
            yield Path(folder)

    def newest(self, complain: Callable[[str], object]) -> str | None:
        """The name of the newest checkpoint that is whole; each newer one that is not costs a sentence."""
        for name in reversed(self.names()):
            try:
                with self.opened(name):
                    return name
            except COMPLAINTS as error:
                complain(f"{name} is damaged ({error}); taking the one before")
        return None

    def remove(self, name: str) -> None:
        """Remove what there is of a checkpoint, if anything."""
        path = f"{self.folder}/{name}"
        if self.filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound:
            self.filesystem.delete_dir(path)

    def mend_notes(self, complain: Callable[[str], object]) -> None:
        """Put Ray's own notes on the checkpoints aside where Ray would refuse to begin with them.

        Nothing is lost with them: which checkpoint to go on from is read from the checkpoints themselves.
        """
        path = f"{self.folder}/{NOTES}"
        if self.filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            return
        with self.filesystem.open_input_stream(path) as stream:
            content = stream.read()
        flaw = flaw_of_notes(content, self.names())
        if flaw is not None:
            self.filesystem.move(path, f"{path}.aside")
            complain(f"{NOTES} {flaw}; it is put aside, the checkpoints are read without it")


def flaw_of_notes(content: bytes, names: Sequence[str]) -> str | None:
    """What is wrong with Ray's notes, None where nothing is: damage, another version of Ray, a checkpoint that is gone.

    Another version may have other fields, and Ray promises to read only what the same version wrote.

    Args:
        names: of the checkpoints that there are.
    """
    try:
        notes = json.loads(content)
        version, kept = notes["ray_version"], [each["checkpoint_dir_name"] for each in notes["checkpoint_results"]]
    except (ValueError, TypeError, KeyError):
        return "is damaged"
    if version != ray.__version__:
        return f"was written by Ray {version}, and this is Ray {ray.__version__}"
    gone = [name for name in kept if name not in names]
    return f"names {', '.join(gone)}, which is not there any more" if gone else None


def name_of(step: int) -> str:
    """A new name that sorts after all of earlier steps, and of earlier tries at this step."""
    return f"{CHECKPOINT}{step:09d}_{time.time_ns()}"


def write_checkpoint(write: WriteCheckpoint, *, step: int) -> ray.train.Checkpoint:
    """In a worker of Ray Train: a new checkpoint in the run's storage.

    Raises:
        OSError: when it cannot be written, for want of space for instance; nothing of it is left then.
    """
    storage = ray.train.get_context().get_storage()
    name = name_of(step)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            write(Path(temporary))
        except RuntimeError as error:  # what torch.save makes of a full disk
            raise OSError(str(error).partition("\n")[0]) from error
        seal(Path(temporary))
        try:
            return storage.persist_current_checkpoint(ray.train.Checkpoint.from_directory(temporary), name)
        except OSError:
            checkpoints_here().remove(name)
            raise


def checkpoints_here() -> Checkpoints:
    """In a worker of Ray Train: the checkpoints of its run."""
    storage = ray.train.get_context().get_storage()
    return Checkpoints(storage.storage_filesystem, storage.experiment_fs_path)
