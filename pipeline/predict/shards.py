"""The folder of results of a long detection: numbered Parquet files, each of which is complete or not there.

The list of pictures is dealt into shards in its order. A shard's file is written under a temporary name and renamed, so
what exists is never written again, and a command that was killed loses the shards that it was working on. job.json says
which list and which detector the files belong to; another one is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import fsspec

from pipeline.predict.batches import PICTURES_PER_READ
from pipeline.predict.table import SCHEMA
from pipeline.storage import stores

JOB = "job.json"
SHARD = re.compile(r"shard-(\d+)\.parquet")
MOST_PICTURES = 512  # in a shard: a lost worker loses at most one
SHARDS_PER_WORKER = 8  # at least, where there are pictures enough, so that workers end at about the same time


@dataclass(frozen=True)
class Job:
    """What the files of a folder hold.

    Attributes:
        pictures: their number.
        list_sha256: of their locations, one a line.
        model_sha256: of the detector's file.
        classes: names of the classes.
        thresholds: score of each class, exclusive.
        shard_pictures: pictures of a shard; the last one may have fewer.
        temperature: with which scores are calibrated; None: they are not.
    """

    pictures: int
    list_sha256: str
    model_sha256: str
    classes: list[str]
    thresholds: list[float]
    shard_pictures: int
    temperature: float | None = None

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.pictures // self.shard_pictures)

    def places(self, shard: int) -> range:
        """Places in the list of the pictures of a shard."""
        return range(shard * self.shard_pictures, min((shard + 1) * self.shard_pictures, self.pictures))


def digest_list(locations: Sequence[str]) -> str:
    """SHA-256 of a list of pictures."""
    digest = hashlib.sha256()
    for location in locations:
        digest.update(f"{location}\n".encode())
    return digest.hexdigest()


def choose_shard_size(pictures: int, workers: int) -> int:
    """Pictures of a shard: a multiple of those that are read at once, so that shards change no batch."""
    even = pictures / (SHARDS_PER_WORKER * workers)
    return min(MOST_PICTURES, max(1, round(even / PICTURES_PER_READ)) * PICTURES_PER_READ)


class ShardFolder:
    """A folder of shards, at a path or URL.

    Raises (all methods):
        ValueError: naming the folder, when it cannot be used.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        with stores.explained(location):
            self.system, self.root = fsspec.url_to_fs(location, auto_mkdir=True)

    def open(self, job: Job) -> Job:
        """Begin a job, or go on with it; returns it with the size of shards that it began with.

        Raises:
            ValueError: naming the difference, when the folder holds another job or other files.
        """
        names = self.names()
        if JOB not in names:
            if names:
                raise ValueError(f"{self.location} is not empty, and has no {JOB}; give --output an empty folder")
            self.write(JOB, json.dumps(asdict(job), indent=1).encode())
            return job
        begun = Job(**json.loads(self.read(JOB)))
        for key, what in (
            ("list_sha256", f"a list of {begun.pictures} pictures, now it is another one of {job.pictures}"),
            ("model_sha256", "another model"),
            ("classes", "other classes"),
            ("temperature", f"the temperature {begun.temperature} of scores, now it is {job.temperature}"),
            ("thresholds", f"the thresholds {begun.thresholds}, now they are {job.thresholds}"),
        ):
            if getattr(begun, key) != getattr(job, key):
                raise ValueError(
                    f"{self.location} was begun with {what}; give another --output, or the command that began it"
                )
        return begun

    def names(self) -> set[str]:
        """Names of the files; none where there is no folder yet."""
        with stores.explained(self.location):
            try:
                found: list[Any] = stores.retry(lambda: self.system.ls(self.root, detail=False, refresh=True))
            except FileNotFoundError:
                return set()
        return {str(path).rstrip("/").rpartition("/")[2] for path in found}

    def done(self) -> set[int]:
        """Numbers of the shards that exist."""
        return {int(match[1]) for name in self.names() if (match := SHARD.fullmatch(name))}

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with stores.explained(self.location):
            content: bytes = stores.retry(lambda: self.system.cat_file(f"{self.root}/{name}"))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears complete."""
        temporary = f"{self.root}/.writing-{name}-{socket.gethostname()}-{os.getpid()}"

        def put() -> None:
            self.system.pipe_file(temporary, content)
            self.system.mv(temporary, f"{self.root}/{name}")

        with stores.explained(self.location):
            stores.retry(put)

    def write_shard(self, shard: int, content: bytes) -> None:
        """Write the Parquet file of a shard."""
        self.write(f"shard-{shard:06d}.parquet", content)

    def summarise(self, job: Job) -> tuple[int, str]:
        """The number of pictures with an error, and the first of them with its error.

        Raises:
            AssertionError: when a picture is missing or there twice.
        """
        from pyarrow import dataset

        files = [f"{self.root}/{name}" for name in sorted(self.names()) if SHARD.fullmatch(name)]
        with stores.explained(self.location):
            rows = dataset.dataset(files, schema=SCHEMA, format="parquet", filesystem=self.system)
            broken = dataset.field("error").is_valid()
            total, failed = rows.count_rows(), rows.count_rows(filter=broken)  # from statistics in the files' footers
            first = rows.head(1, columns=["path", "error"], filter=broken).to_pylist() if failed else []
        assert total == job.pictures, f"{total} rows for {job.pictures} pictures in {self.location}"
        return failed, "".join(f"{row['path']}: {row['error']}" for row in first)
