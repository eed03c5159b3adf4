"""Which run is it? Runs found again by their id, or by what was said of them at their birth."""

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
    """The id of the run of our experiment that has this tag, see `newest_run`; None where there is none.

    A store that does not answer knows no run either, and a warning says so: what asks goes on with a new one.
    """
    from mlflow.exceptions import MlflowException

    store = find_store()
    try:
        found = newest_run(connect(store), store, tag, value)
    except (MlflowException, OSError) as error:
        sentence = f"MLflow does not say whether {store.public_uri} has a run with {tag} = {value}"
        print(f"warning: {sentence}: {in_short(error)}", file=sys.stderr, flush=True)
        return None
    return None if found is None else str(found.info.run_id)


def newest_run(client: MlflowClient, store: Store, tag: str, value: str) -> MlflowRun | None:
    """The newest run of the store's experiment that has this tag and has finished, else the newest that has it.

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
    """The run of this id; None where the store has none, or somebody has deleted it."""
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
    """Those of these runs that the store has and nobody has deleted; None, with a warning, where it does not answer."""
    from mlflow.exceptions import MlflowException

    store = find_store()
    try:
        client = connect(store)
        return {run_id for run_id in run_ids if active_run(client, run_id) is not None}
    except (MlflowException, OSError) as error:
        print(f"warning: {store.public_uri} does not answer: {in_short(error)}", file=sys.stderr, flush=True)
        return None
