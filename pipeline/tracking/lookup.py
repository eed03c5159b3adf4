"""Find runs by id, or by a tag that was set on creation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.tracking.outbox import in_short
from pipeline.tracking.records import MAX_TAG, clean_name
from pipeline.tracking.store import Store, connect, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun


def find_run(tag: str, value: str) -> str | None:
    """Return the id of the run with this tag in our experiment, see `newest_run`; None if there is none.

    A store that does not answer also gives None, with a warning: the caller continues with a new run.
    """
    from mlflow.exceptions import MlflowException

    store = find_store()
    try:
        found = newest_run(connect(store), store, tag, value)
    except (MlflowException, OSError) as error:
        sentence = f"MLflow cannot search {store.public_uri} for a run with {tag} = {value}"
        print(f"warning: {sentence}: {in_short(error)}", file=sys.stderr, flush=True)
        return None
    return None if found is None else str(found.info.run_id)


def newest_run(client: MlflowClient, store: Store, tag: str, value: str) -> MlflowRun | None:
    """Return the newest finished run with this tag in the store's experiment, else the newest with it.

    Deleted runs are left out.
    """
    experiment = client.get_experiment_by_name(store.experiment)
    if experiment is None:
        return None
    quote = '"' if "'" in value else "'"
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{clean_name(tag)}` = {quote}{value[:MAX_TAG]}{quote}",
        order_by=["attributes.start_time DESC"],
    )
    finished = [run for run in found if run.info.status == "FINISHED"]
    return next(iter(finished or found), None)


def active_run(client: MlflowClient, run_id: str | None) -> MlflowRun | None:
    """Return the run of this id; None if the store does not have it or it is deleted."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def active_runs(run_ids: Sequence[str]) -> set[str] | None:
    """Return those of these runs that exist and are not deleted; None, with a warning, if the store does not answer."""
    from mlflow.exceptions import MlflowException

    store = find_store()
    try:
        client = connect(store)
        return {run_id for run_id in run_ids if active_run(client, run_id) is not None}
    except (MlflowException, OSError) as error:
        print(f"warning: {store.public_uri} does not answer: {in_short(error)}", file=sys.stderr, flush=True)
        return None
