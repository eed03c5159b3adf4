"""Files of a sweep in the storage, beside Ray Tune's state: one record per trial.

Ray's snapshot of a killed sweep may be some seconds old, these are not: a trial whose record says `finished` is not
trained again. `status` and `report` read nothing else.
"""

from __future__ import annotations

import json
from typing import Any

import fsspec

from pipeline.storage.stores import explained, retry  # registers s3:// and gs://

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
ENDED = (FINISHED, STOPPED, FAILED)
EXHAUSTED = "exhausted"  # a file: the number of trials after which no setting was left
TUNE, TRAIN = "tune", "train"
RESUME_STATE = (TUNE, TRAIN)
"""Folders that only unfinished trials need: Ray Tune's state with its checkpoints, and the trainings of trials with
several workers."""


class SweepFolder:
    """The folder of one sweep.

    Args:
        url: folder or URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def path(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if there is none.

        Raises:
            ValueError: naming the storage, when it does not answer.
        """

        def load() -> bytes:
            with fsspec.open(self.path(name), "rb") as file:
                content: bytes = file.read()
            return content

        try:
            with explained(self.url):
                return retry(load)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically.

        Raises:
            ValueError: naming the storage, when it does not take it.
        """

        def store() -> None:
            system, path = fsspec.url_to_fs(self.path(name))
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            with system.transaction, system.open(path, "wb") as file:
                file.write(content)

        with explained(self.url):
            retry(store)

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file, None if there is none."""
        content = self.read(name)
        return None if content is None else json.loads(content)

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file."""
        self.write(name, json.dumps(content).encode())

    def record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a trial."""
        found: dict[str, Any] | None = self.read_json(f"trials/{key}.json")
        return found

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all trials, in the order of their first start."""
        names = [url.rpartition("/")[2] for url in entries(self.path("trials")) if url.endswith(".json")]
        found = [self.read_json(f"trials/{name}") for name in names]
        return sorted((record for record in found if record), key=lambda record: (record["number"], record["seed"]))

    def note_exhausted(self, trials: int) -> None:
        """Record that no setting is left after this many trials."""
        self.write(EXHAUSTED, str(trials).encode())

    def has_ended(self) -> bool:
        """Return whether no trial is left to train; False for a folder without a sweep."""
        plan, records, exhausted = self.read_json("sweep.json"), self.records(), self.read(EXHAUSTED)
        if plan is None or any(record["state"] not in ENDED for record in records):
            return False
        # Earlier versions wrote an empty file.
        return len(records) >= (plan["trials"] if exhausted is None else int(exhausted or len(records)))


def entries(folder: str) -> list[str]:
    """Return the URLs of the members of a folder; empty if there is no such folder.

    Does not use fsspec's glob or exists, which treat a storage that does not answer as empty.

    Raises:
        ValueError: naming the folder, when the storage does not answer.
    """
    try:
        with explained(folder):
            system, path = fsspec.url_to_fs(folder)
            names = retry(lambda: system.ls(path, detail=False))
    except FileNotFoundError:
        return []
    return [system.unstrip_protocol(name) for name in names]
