"""Add to the run of a finished training, found by id or digest; its status, end time and tags stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.tracking.interface import Status
from pipeline.tracking.lookup import active_run, newest_run
from pipeline.tracking.run import Run
from pipeline.tracking.store import Store, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST = "run_digest"
"""Tag of a training's run: the digest of the experiment."""

ENDED = ("FINISHED", "FAILED", "KILLED")


def open_existing_run(
    *, run_id: str | None, digest: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> Run:
    """Add to the run of a training, or to a new run if the store has none.

    A store that does not answer is no error: the first call that reaches it looks the run up.

    Args:
        run_id: of the run, if known.
        digest: of the training; where the id is None or unknown to the store, the newest finished run with this
            `run_digest` is taken.
        name: of a new run.
        params: as for `open_run`.
        tags: of a new run, besides its `run_digest`.

    Raises:
        ValueError: if the store answers and will not have us (address, rights, a deleted experiment).
    """
    run = ExistingRun(find_store(), run_id=run_id, digest=digest, name=name, tags=tags)
    run.try_to_open()
    run.log_params(params)
    return run


class ExistingRun(Run):
    """A run that another process has finished; calls here change neither its status nor its end time."""

    def __init__(self, store: Store, *, run_id: str | None, digest: str, name: str, tags: Mapping[str, str]) -> None:
        """Send nothing yet; see `open_existing_run`."""
        super().__init__(store, run_id=run_id, name=name, tags={**tags, DIGEST: digest})
        self._digest = digest
        self._status: str | None = None  # status of the existing run; None: the run is new

    def _continue(self, client: MlflowClient) -> str | None:
        """Return the id of the training's run if the store has it."""
        run = active_run(client, self.run_id) or newest_run(client, self._store, DIGEST, self._digest)
        if run is None:
            print(f"MLflow at {self._store.public_uri} has no run of training {self._digest}; starting a new one")
            return None
        self.run_id, self._experiment_id, self._status = run.info.run_id, run.info.experiment_id, run.info.status
        return str(run.info.run_id)

    def _end(self, client: MlflowClient, run_id: str, status: Status) -> None:
        """Finish a new run, or one whose training could not report its end; leave others unchanged."""
        if self._status is None or (status == "FINISHED" and self._status not in ENDED):
            super()._end(client, run_id, status)
