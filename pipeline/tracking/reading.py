"""Read runs back from the store, by id, prefix of an id, or name; writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.outbox import in_short
from pipeline.tracking.store import SQLITE, Store, connect, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

MIN_PREFIX = 6
"""Minimum length of an id prefix."""


@dataclass(frozen=True)
class StoredRun:
    """A run as stored: params and tags as text, and the last value of each metric."""

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


class RunReader:
    """The runs of all experiments in the store at MLFLOW_TRACKING_URI, by default the project's own."""

    def __init__(self) -> None:
        self._store = find_store()
        self._known_client: MlflowClient | None = None
        self._runs: list[StoredRun] | None = None

    @property
    def address(self) -> str:
        """Address of the store, without passwords."""
        return self._store.public_uri

    def find(self, word: str) -> list[StoredRun]:
        """Return the runs with this id, else this name, else this id prefix (6 characters or more); newest first.

        Raises:
            ValueError: when the store does not answer.
        """
        runs = self.all()
        named = [run for run in runs if run.name == word]
        begun = [run for run in runs if len(word) >= MIN_PREFIX and run.run_id.startswith(word)]
        return [run for run in runs if run.run_id == word] or named or begun

    def all(self) -> list[StoredRun]:
        """Return all runs that are not deleted, newest first."""
        if self._runs is None:
            with self._complaints("does not answer"):
                self._runs = [] if is_missing(self._store) else [as_stored(run) for run in search_all(self._client())]
        return self._runs

    def list_artifacts(self, run_id: str, folder: str) -> list[str]:
        """Return the names in a folder of the run's artifacts; empty if there is no such folder."""
        with self._complaints(f"cannot list the artifacts of run {run_id}"):
            return [Path(entry.path).name for entry in self._client().list_artifacts(run_id, folder)]

    def download(self, run_id: str, artifact: str, folder: Path) -> Path:
        """Download an artifact to a local folder.

        Raises:
            ValueError: naming the run and the artifact, when it cannot be had.
        """
        with self._complaints(f"cannot return artifact {artifact} of run {run_id}"):
            return Path(self._client().download_artifacts(run_id, artifact, str(folder)))

    @contextmanager
    def _complaints(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # networks, databases and object stores raise errors of their own
            sentence = f"MLflow at {self.address} (MLFLOW_TRACKING_URI) {what}"
            raise ValueError(f"{sentence}: {in_short(error)}") from error

    def _client(self) -> MlflowClient:
        self._known_client = self._known_client or connect(self._store)
        return self._known_client


def is_missing(store: Store) -> bool:
    """Return True if the store is a file that does not exist: connecting would create it."""
    return store.uri.startswith(SQLITE) and not Path(store.uri.removeprefix(SQLITE)).exists()


def search_all(client: MlflowClient) -> Sequence[MlflowRun]:
    """Yield the runs of all experiments, page by page."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[MlflowRun] = []
    token: str | None = None
    while experiments:
        page = client.search_runs(
            experiments, max_results=1000, page_token=token, order_by=["attributes.start_time DESC"]
        )
        runs, token = [*runs, *page], page.token
        if not token:
            break
    return runs


def as_stored(run: MlflowRun) -> StoredRun:
    """Convert a run from MLflow's types; a parameter that was changed later has its new value."""
    changed = {key.removeprefix("changed."): text for key, text in run.data.tags.items() if key.startswith("changed.")}
    return StoredRun(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        params={**run.data.params, **changed},
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
    )
