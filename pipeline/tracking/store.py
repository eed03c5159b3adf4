"""Where runs are kept: a SQLite file and a folder at the project's root, or what MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from pipeline.params.paths import outer_root, project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

DEFAULT_EXPERIMENT = "retinanet"
SQLITE = "sqlite:///"

# Read by mlflow while it is imported or at each request; what the user has set stays.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # uv.lock holds the addresses of package registries; it has no place in a model
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    # mlflow's own 7 retries of 120 s would hold the training for minutes; our outbox is the patient one
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}


@dataclass(frozen=True)
class Store:
    """The address of a store and the name of the experiment in it."""

    uri: str
    experiment: str
    artifacts: str | None
    """URI under which a new experiment keeps its files; None: the server decides."""

    @property
    def is_server(self) -> bool:
        """True where people can open the address in a browser."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def public_uri(self) -> str:
        """The address without user and password, fit to be printed."""
        return without_password(self.uri)


def without_password(text: str) -> str:
    """The text with user and password taken out of all addresses in it."""
    # A password may hold a slash: then what looks like the port is no number.
    return re.sub(r"(?<=://)(?:[^/\s]*|[^/\s@]*:(?!\d+/)\S*)@", "", text)


def find_store() -> Store:
    """The store that the environment names, else the one at the project's root; creates nothing."""
    root = outer_root(project_root())
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE):
        # a relative file belongs to the project, not to the folder in which a stage happens to run
        uri = f"{SQLITE}{root / uri.removeprefix(SQLITE)}"
    is_remote = uri.startswith(("http://", "https://", "databricks"))
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    return Store(uri, experiment, artifacts=None if is_remote else (root / "mlartifacts").as_uri())


def connect(store: Store) -> MlflowClient:
    """A client of the store, and of it alone; a SQLite file is created and brought up to date here."""
    import_mlflow()
    from mlflow import MlflowClient

    with sqlite_lock(store):
        return MlflowClient(tracking_uri=store.uri)


def import_mlflow() -> None:
    """Import mlflow with our settings, and what it needs for a SQLite file: 3 s."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if find_store().is_server:
        import mlflow
    else:
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def sqlite_lock(store: Store) -> AbstractContextManager[object]:
    """Two processes that migrate one SQLite file at a time break it, hence one after the other."""
    if not store.uri.startswith(SQLITE):
        return nullcontext()
    return FileLock(f"{store.uri.removeprefix(SQLITE)}.lock")


def find_or_create_experiment(client: MlflowClient, store: Store) -> str:
    """The id of the store's experiment.

    Raises:
        ValueError: if somebody has deleted the experiment of this name.
    """
    with sqlite_lock(store):
        experiment = client.get_experiment_by_name(store.experiment) or begin_experiment(client, store)
    if experiment.lifecycle_stage != "active":
        raise ValueError(
            f"the MLflow experiment {store.experiment} in {store.public_uri} is deleted; restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}` or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    return str(experiment.experiment_id)


def begin_experiment(client: MlflowClient, store: Store) -> Experiment:
    """The store's experiment, made now; on a server somebody else may make it in the same moment."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_experiment(client.create_experiment(store.experiment, artifact_location=store.artifacts))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (other := client.get_experiment_by_name(store.experiment)):
            return other
        raise
