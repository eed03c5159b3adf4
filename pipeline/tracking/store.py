"""MLflow's store: a SQLite file and a folder in the project's root, or the server at MLFLOW_TRACKING_URI."""

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

# Read by mlflow on import or at each request; values that the user has set take precedence.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # uv.lock holds addresses of package registries, which must not go into a model
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    # mlflow's default of 7 retries of 120 s would block training for minutes; the outbox retries instead
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}


@dataclass(frozen=True)
class Store:
    """The address of a store and the name of the experiment in it."""

    uri: str
    experiment: str
    artifacts: str | None
    """Artifact URI of a new experiment; None: the server decides."""

    @property
    def is_server(self) -> bool:
        """Whether the address can be opened in a browser."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def public_uri(self) -> str:
        """The address without user and password, for messages."""
        return without_password(self.uri)


def without_password(text: str) -> str:
    """Remove user and password from all addresses in a text."""
    # A password may contain a slash: then the apparent port is not a number.
    return re.sub(r"(?<=://)(?:[^/\s]*|[^/\s@]*:(?!\d+/)\S*)@", "", text)


def find_store() -> Store:
    """Return the store in the environment, else the one in the project's root; creates nothing."""
    root = outer_root(project_root())
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE):
        # relative to the project, not to the working directory of a stage
        uri = f"{SQLITE}{root / uri.removeprefix(SQLITE)}"
    is_remote = uri.startswith(("http://", "https://", "databricks"))
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    return Store(uri, experiment, artifacts=None if is_remote else (root / "mlartifacts").as_uri())


def connect(store: Store) -> MlflowClient:
    """Return a client of this store; creates and migrates a SQLite file."""
    import_mlflow()
    from mlflow import MlflowClient

    with sqlite_lock(store):
        return MlflowClient(tracking_uri=store.uri)


def import_mlflow() -> None:
    """Import mlflow with our settings: 2.2 s of CPU time; its part for a SQLite file, 1.1 s, comes with `connect`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401


def sqlite_lock(store: Store) -> AbstractContextManager[object]:
    """Return a lock against concurrent migrations of a SQLite file, which would break it."""
    if not store.uri.startswith(SQLITE):
        return nullcontext()
    return FileLock(f"{store.uri.removeprefix(SQLITE)}.lock")


def find_or_create_experiment(client: MlflowClient, store: Store) -> str:
    """Return the id of the store's experiment; create it if needed.

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
    """Create the store's experiment; another client of a server may create it at the same time."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_experiment(client.create_experiment(store.experiment, artifact_location=store.artifacts))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (other := client.get_experiment_by_name(store.experiment)):
            return other
        raise
