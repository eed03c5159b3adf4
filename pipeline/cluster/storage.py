"""Checkpoints of a run in its storage: written atomically, verified on reading, the newest intact one selected.

Ray keeps the two newest and deletes older ones. The checkpoint to resume from is selected from the storage itself, not
from Ray's notes, so that a damaged checkpoint or damaged notes cost at most the steps since the checkpoint before.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train

from pipeline.runs.checksums import verify_checksums, write_checksums
from pipeline.runs.identity import CHECKPOINT

WriteCheckpoint = Callable[[Path], None]
"""Writes the files of a checkpoint to a folder."""

SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray's; if it is damaged, Ray refuses to start
COMPLAINTS = (OSError, ValueError)
UPLOAD_CHUNK = 64 * 2**20  # bytes


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        filesystem: a pyarrow file system.
        folder: path of the run's folder in it.
    """

    def __init__(self, filesystem: Any, folder: str) -> None:
        self.filesystem, self.folder = filesystem, folder

    @classmethod
    def of(cls, storage: str, name: str) -> Checkpoints:
        """Return the checkpoints of a run, whose storage is a folder or a URL."""
        filesystem, folder = pyarrow.fs.FileSystem.from_uri(storage if "://" in storage else str(Path(storage)))
        return cls(filesystem, f"{folder}/{name}")

    def names(self) -> list[str]:
        """Return the names of the checkpoints, oldest first."""
        found = self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.folder, allow_not_found=True))
        return sorted(
            entry.base_name for entry in found if entry.base_name.startswith(CHECKPOINT) and not entry.is_file
        )

    def checkpoint(self, name: str) -> ray.train.Checkpoint:
        """Return the checkpoint of that name as Ray's class."""
        return ray.train.Checkpoint(path=f"{self.folder}/{name}", filesystem=self.filesystem)

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """Yield the checkpoint's files in a local folder, after their checksums have been verified.

        Raises:
            ValueError: when it is damaged.
        """
        with self.checkpoint(name).as_directory() as folder:
            verify_checksums(Path(folder))
            yield Path(folder)

    def newest(self, complain: Callable[[str], object]) -> str | None:
        """Return the name of the newest intact checkpoint; call `complain` for each newer one that is damaged."""
        for name in reversed(self.names()):
            try:
                with self.opened(name):
                    return name
            except COMPLAINTS as error:
                complain(f"{name} is damaged ({error}); using the one before it")
        return None

    def write(self, fill: WriteCheckpoint, *, step: int) -> ray.train.Checkpoint:
        """Write a new checkpoint.

        Args:
            fill: writes its files into a temporary folder, whose content is then copied to the storage.

        Raises:
            OSError: when it cannot be written, e.g. to a full disk; nothing of it is left then.
            ValueError: when this node does not see the run's folder.
        """
        self.demand_folder()
        name = name_of(step)
        with tempfile.TemporaryDirectory() as temporary:
            try:
                fill(Path(temporary))
            except RuntimeError as error:  # torch.save on a full disk
                raise OSError(str(error).partition("\n")[0]) from error
            write_checksums(Path(temporary))
            try:
                self.upload(temporary, name)
            except OSError:
                self.remove(name)
                raise
        return self.checkpoint(name)

    def demand_folder(self) -> None:
        """Raise ValueError where the run's folder, which the driver has made, is not visible on this node."""
        if self.filesystem.get_file_info(self.folder).type == pyarrow.fs.FileType.NotFound:
            raise ValueError(
                f"node {platform.node()} does not see {self.folder}; set storage in conf/ to a URL, or to a folder "
                "that all nodes share"
            )

    def upload(self, folder: str, name: str) -> None:
        """Copy a local folder to the checkpoint of that name."""
        target = f"{self.folder}/{name}"
        self.filesystem.create_dir(target)
        # Uploads to S3 from several threads may hang: github.com/apache/arrow/issues/32372.
        use_threads = self.filesystem.type_name != "s3"
        pyarrow.fs.copy_files(
            folder,
            target,
            source_filesystem=pyarrow.fs.LocalFileSystem(),
            destination_filesystem=self.filesystem,
            chunk_size=UPLOAD_CHUNK,
            use_threads=use_threads,
        )

    def remove(self, name: str) -> None:
        """Remove a checkpoint, or what exists of it."""
        path = f"{self.folder}/{name}"
        if self.filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound:
            self.filesystem.delete_dir(path)

    def repair_snapshot(self, complain: Callable[[str], object]) -> None:
        """Rename Ray's notes on the checkpoints if Ray would refuse to start with them.

        Nothing is lost: the checkpoint to resume from is selected from the checkpoints themselves.
        """
        path = f"{self.folder}/{SNAPSHOT}"
        if self.filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            return
        with self.filesystem.open_input_stream(path) as stream:
            content = stream.read()
        flaw = find_snapshot_fault(content, self.names())
        if flaw is not None:
            self.filesystem.move(path, f"{path}.aside")
            complain(f"{SNAPSHOT} {flaw}; it was moved aside, the checkpoints are read without it")


def find_snapshot_fault(content: bytes, names: Sequence[str]) -> str | None:
    """Return what is wrong with Ray's notes, or None: damage, another version of Ray, a checkpoint that is gone.

    Another version of Ray may use other fields, and Ray promises to read only notes of its own version.

    Args:
        names: the checkpoints in the storage.
    """
    try:
        notes = json.loads(content)
        version, kept = notes["ray_version"], [each["checkpoint_dir_name"] for each in notes["checkpoint_results"]]
    except (ValueError, TypeError, KeyError):
        return "is damaged"
    if version != ray.__version__:
        return f"was written by Ray {version}, but this is Ray {ray.__version__}"
    gone = [name for name in kept if name not in names]
    return f"names missing checkpoints ({', '.join(gone)})" if gone else None


def name_of(step: int) -> str:
    """Return a new name that sorts after those of earlier steps, and of earlier attempts at this step."""
    return f"{CHECKPOINT}{step:09d}_{time.time_ns()}"
