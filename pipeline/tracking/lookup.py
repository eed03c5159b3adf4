"""Which run is it? Runs found again by what was said of them at their birth."""

from __future__ import annotations

import sys

from pipeline.tracking.outbox import in_short
from pipeline.tracking.records import MAX_TAG, clean_name
from pipeline.tracking.store import connect, find_store


def find_run(tag: str, value: str) -> str | None:
    """The id of the newest run of our experiment that has this tag; None where there is none.

    A store that does not answer knows no run either, and a warning says so: what asks goes on with a new one.
    """
    from mlflow.exceptions import MlflowException

    store = find_store()
    quote = '"' if "'" in value else "'"
    try:
        client = connect(store)
        experiment = client.get_experiment_by_name(store.experiment)
        if experiment is None:
            return None
        found = client.search_runs(
            [experiment.experiment_id],
            f"tags.`{clean_name(tag)}` = {quote}{value[:MAX_TAG]}{quote}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    except (MlflowException, OSError) as error:
        sentence = f"MLflow does not say whether {store.public_uri} has a run with {tag} = {value}"
        print(f"warning: {sentence}: {in_short(error)}", file=sys.stderr, flush=True)
        return None
    return str(found[0].info.run_id) if found else None
