"""MLflow's model registry: register a version of a named model, and set its alias."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runs.identity import digest_file
from pipeline.storage.outs import write_atomic
from pipeline.tracking.description import DESCRIPTION_TAG
from pipeline.tracking.model import DIGEST, models_of, write_model
from pipeline.tracking.outbox import in_short
from pipeline.tracking.records import MAX_TAG, clean_tags
from pipeline.tracking.store import connect, find_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

NAME = re.compile(r"\w[\w .-]*")
"""A subset of MLflow's rule: the rest fails in models:/NAME@ALIAS or in searches."""

ALIAS = re.compile(r"[\w-]{1,255}")
RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
"""MLflow's own rules for aliases, checked before anything is written."""

LINK = re.compile(r"\[[^]]+]\(#/experiments/\S+\)")
"""A line of a run's description, as Run.link_artifact adds it."""

MODEL_ID = "model_id"
"""Tag of a version: the id of its logged model, which a search does not return."""


@dataclass(frozen=True)
class RunModel:
    """The newest complete model of a run, with the run's metrics and tags."""

    model_id: str
    run_id: str
    digest: str
    """SHA-256 of its weights file; empty if unknown."""
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Version:
    """A version of a registered model, found by its alias."""

    version: str
    run_id: str
    model_id: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    """Metrics and tags of its run."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, with its alias."""

    name: str
    version: str
    alias: str
    is_new: bool
    """False if the registry already had this model."""
    before: str | None
    """The previous version of the alias; None if there was none."""

    @property
    def uri(self) -> str:
        """The URI by which MLflow loads it."""
        return f"models:/{self.name}@{self.alias}"


def find_model(run_id: str, *, digest: str | None = None) -> RunModel:
    """Return the model that a run has logged.

    Args:
        digest: SHA-256 of its weights file; None: the newest model.

    Raises:
        ValueError: when there is no such run, or it has no such model.
    """
    store = find_store()
    client = reach(run_id)
    run = client.get_run(run_id)
    models = [model for model in models_of(client, run) if digest is None or model.tags.get(DIGEST) == digest]
    if not models:
        which = "no model" if digest is None else "no model with these weights"
        raise ValueError(f"the MLflow run {run_id} in {store.public_uri} holds {which}; run the train stage again")
    model: LoggedModel = models[-1]
    data = run.data
    return RunModel(model.model_id, run_id, model.tags.get(DIGEST, ""), data.metrics, data.tags, data.params)


def reach(run_id: str) -> MlflowClient:
    """Return a client of the store; raise ValueError if it does not answer or does not have this run."""
    from mlflow.exceptions import MlflowException

    store = find_store()
    try:
        client = connect(store)
        client.get_run(run_id)
    except (MlflowException, OSError) as error:
        sentence = f"MLflow at {store.public_uri} (MLFLOW_TRACKING_URI) cannot return run {run_id}"
        raise ValueError(f"{sentence}: {in_short(error)}") from None
    return client


def check_name(name: str, alias: str) -> None:
    """Check name and alias by the registry's rules, before anything is written.

    Raises:
        ValueError: naming the invalid one.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"--register {name!r} is not a model name; use letters, digits, -, _ and ., as in retinanet")
    if not ALIAS.fullmatch(alias) or RESERVED_ALIAS.fullmatch(alias):
        raise ValueError(
            f"--alias {alias!r} is not a valid alias; use up to 255 letters, digits, - and _, e.g. champion; latest "
            "and versions such as v1 are reserved"
        )


def register(model: RunModel, *, name: str, alias: str, tags: Mapping[str, str], description: str) -> Registered:
    """Register a model as a version with an alias; a model that is already registered gets no second version.

    Raises:
        ValueError: when the store refuses.
    """
    from mlflow.exceptions import MlflowException

    client = connect(find_store())
    try:
        version = version_of(client, name, model)
        before = version_behind(client, name, alias)
        entry = version or new_version(client, name, model)
        for key, text in clean_tags(tags).items():
            client.set_model_version_tag(name, entry.version, key, text)
        client.update_model_version(name, entry.version, description)
        client.set_registered_model_alias(name, alias, entry.version)
    except MlflowException as error:
        raise ValueError(f"MLflow cannot register {name}: {in_short(error)}") from error
    return Registered(name, str(entry.version), alias, is_new=version is None, before=before)


def new_version(client: MlflowClient, name: str, model: RunModel) -> ModelVersion:
    """Create the next version of a name, and the name if it is new."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model.model_id}"
    tags = {MODEL_ID: model.model_id}
    return client.create_model_version(name, source, run_id=model.run_id, model_id=model.model_id, tags=tags)


def version_of(client: MlflowClient, name: str, model: RunModel) -> ModelVersion | None:
    """Return the version of the name that holds this model, None if there is none."""
    versions = client.search_model_versions(f"name = '{name}'")
    same = [version for version in versions if version.tags.get(MODEL_ID) == model.model_id]
    return max(same, key=lambda version: int(version.version), default=None)


def version_behind(client: MlflowClient, name: str, alias: str) -> str | None:
    """Return the version of an alias, None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def find_version(name: str, alias: str) -> Version | None:
    """Return the version of an alias with the metrics and tags of its run, None if there is no such name or alias.

    Raises:
        ValueError: when MLflow does not answer, or does not have the run of the version.
    """
    from mlflow.exceptions import MlflowException

    client = connect(find_store())
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise ValueError(f"MLflow cannot look up {name}@{alias}: {in_short(error)}") from error
    try:
        run = client.get_run(found.run_id or "")
    except MlflowException as error:
        raise ValueError(
            f"MLflow does not have the run of {name}@{alias} (version {found.version}), with its detections: "
            f"{in_short(error)}; set the alias to another version, or register without --if-better"
        ) from error
    model_id = str(found.tags.get(MODEL_ID, ""))
    return Version(str(found.version), run.info.run_id, model_id, run.data.metrics, run.data.tags)


def describe_model_run(run_id: str, text: str, *, digest: str) -> None:
    """Make a text the description of a run, before its links; one that somebody else has written stays.

    Args:
        digest: of the training, which our own descriptions name.
    """
    client = connect(find_store())
    before = client.get_run(run_id).data.tags.get(DESCRIPTION_TAG, "")
    links = "\n".join(line for line in before.splitlines() if LINK.fullmatch(line))
    if f"(run `{digest}`)" in before or before.strip() == links:
        room = MAX_TAG - len(links) - 1
        client.set_tag(run_id, DESCRIPTION_TAG, f"{text[:room]}\n{links}" if links else text[:MAX_TAG])


def copy_model(model: RunModel, folder: Path) -> None:
    """Download the folder of a logged model, as `mlflow.pyfunc.load_model` reads it."""
    from mlflow.artifacts import download_artifacts

    store = find_store()
    with tempfile.TemporaryDirectory() as temporary:
        got = download_artifacts(artifact_uri=f"models:/{model.model_id}", dst_path=temporary, tracking_uri=store.uri)
        shutil.copytree(got, folder)


def download_weights(uri: str, folder: Path) -> Path:
    """Download a model by its URI in MLflow, models:/NAME@ALIAS or runs:/ID/NAME; return its weights file.

    Raises:
        ValueError: when MLflow does not answer or has no such model.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    store = find_store()
    try:
        connect(store)
        return weights_in(Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=store.uri)))
    except (MlflowException, OSError, KeyError) as error:
        raise ValueError(f"MLflow at {store.public_uri} has no detector {uri}: {in_short(error)}") from None


def fetch_weights(uri: str, folder: Path) -> Path:
    """Return the weights file of a model by its URI, below a folder under its digest; it is downloaded once.

    Raises:
        ValueError: when MLflow does not answer or has no such model.
    """
    known = known_digest(uri)
    if known is not None and (folder / f"{known}.pt").is_file():
        return folder / f"{known}.pt"
    print(f"downloading {uri} from MLflow at {find_store().public_uri}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = download_weights(uri, Path(temporary))
        kept = folder / f"{digest_file(path)}.pt"
        write_atomic(kept, lambda unfinished: shutil.copyfile(path, unfinished))
    return kept


def known_digest(uri: str) -> str | None:
    """Return the digest that MLflow holds for the weights of a model; None if the URI or the tags do not tell."""
    from mlflow.exceptions import MlflowException

    client = connect(find_store())
    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        if alias:
            name = client.get_model_version_by_alias(name, alias).tags.get(MODEL_ID, "")
        elif not name.startswith("m-"):  # a logged model
            name, _, version = name.partition("/")
            name = client.get_model_version(name, version).tags.get(MODEL_ID, "") if version.isdigit() else ""
        return client.get_logged_model(name).tags.get(DIGEST) if name else None
    except MlflowException:
        return None  # the download says what is wrong


def write_folder(folder: Path, path: Path, *, class_names: list[str], card: str | None = None) -> None:
    """Write the folder of a model from its weights file, without a store; see write_model."""
    from mlflow.models import Model

    write_model(folder, path, description=Model(), class_names=class_names, example=None, card=card)


def weights_in(folder: Path) -> Path:
    """Return the weights file in the folder of a model."""
    from mlflow.models import Model

    artifacts = Model.load(str(folder)).flavors["python_function"]["artifacts"]
    return folder / str(artifacts["weights"]["path"])
