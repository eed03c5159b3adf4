"""An MLflow run: create or resume it, and log to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.cli.stop import StoppedError
from pipeline.tracking.description import link_artifact
from pipeline.tracking.interface import Row, Status
from pipeline.tracking.lookup import active_run
from pipeline.tracking.model import Picture, log_model
from pipeline.tracking.node_metrics import NodeMetrics
from pipeline.tracking.outbox import Outbox, Send, is_refusal, reason
from pipeline.tracking.records import (
    as_dataset,
    as_metrics,
    as_param,
    clean_name,
    clean_picture_key,
    clean_tags,
    last_epoch_in_store,
    with_best,
)
from pipeline.tracking.store import Store, connect, find_or_create_experiment, find_store
from pipeline.tracking.system_metrics import SystemMetrics
from pipeline.tracking.view import keep_view

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_run(*, run_id: str | None, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> Run:
    """Resume the run of this id, or create one; its status is RUNNING until `finish`.

    A store that does not answer is no error: the first call that reaches it opens the run.

    Args:
        run_id: of the run to resume; None, or an id that the store does not have, creates a new run.
        params: dotted name -> value; a value that the run already has is never changed.
        tags: set on creation, so that `find_run` finds the run even if this process is killed. `mlflow.parentRunId`
            makes it the child of the run of that id.

    Raises:
        ValueError: if the store answers and will not have us (address, rights, a deleted experiment).
    """
    run = Run(find_store(), run_id=run_id, name=name, tags=tags)
    run.try_to_open()
    run.log_params(params)
    run.set_tags(tags)
    return run


class Run:
    """A run in the store. Each method sends what it can; the outbox holds the rest for the next call."""

    def __init__(self, store: Store, *, run_id: str | None, name: str, tags: Mapping[str, str]) -> None:
        """Send nothing yet; see `open_run`."""
        self.run_id = run_id
        """None until the first answer of the store."""
        self._store = store
        self._name = name
        self._birth_tags = clean_tags(tags)
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._last_epoch: int | None = None  # None: ask the store
        self._outbox = Outbox(self.open, address=store.public_uri)
        self._system_metrics, self._node_metrics = SystemMetrics(store.uri), NodeMetrics()
        self._is_finished = False

    @property
    def url(self) -> str:
        """The URL of the run's page, or the command that shows the local store."""
        if not self._store.is_server or self._experiment_id is None:
            return "make ui"
        return f"{self._store.public_uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self.run_id}"

    def try_to_open(self) -> None:
        """Open the run if the store answers; raise ValueError if it refuses."""
        start = time.monotonic()
        try:
            self.open()
        except Exception as error:
            if is_refusal(error):
                sentence = f"MLflow at {self._store.public_uri} (MLFLOW_TRACKING_URI) cannot open a run"
                raise ValueError(f"{sentence}: {reason(error)}") from error
            self._outbox.pause(error, cost_s=time.monotonic() - start)

    def open(self) -> tuple[MlflowClient, str]:
        """Connect to the store and create or resume the run; later calls only check that the store answers."""
        client = self._client = self._client or connect(self._store)
        if self._experiment_id is not None and self.run_id is not None:
            client.get_run(self.run_id)
            return client, self.run_id
        run_id = self._continue(client)
        if run_id is None:
            run_id = self._begin(client)
        return client, run_id

    def _continue(self, client: MlflowClient) -> str | None:
        """Return the id of our run if the store has it, and set its status to RUNNING."""
        if self.run_id is None:
            return None
        run = active_run(client, self.run_id)
        if run is None:
            print(f"MLflow at {self._store.public_uri} has no run {self.run_id}; starting a new one", flush=True)
            return None
        client.update_run(self.run_id, status="RUNNING")
        self._experiment_id = run.info.experiment_id
        return self.run_id

    def _begin(self, client: MlflowClient) -> str:
        """Create a run and return its id."""
        experiment_id = find_or_create_experiment(client, self._store)
        keep_view(client, experiment_id)
        self.run_id = client.create_run(experiment_id, run_name=self._name, tags=self._birth_tags).info.run_id
        self._experiment_id, self._last_epoch = experiment_id, -1
        return self.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Add parameters; a value that differs from the run's goes to the tag `changed.<name>`, with a warning."""
        texts = {clean_name(key): as_param(value) for key, value in params.items()}

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Param, RunTag

            run = client.get_run(run_id).data
            held = run.params
            changed = {key: text for key, text in texts.items() if held.get(key, text) != text}
            for key, text in changed.items():
                self._outbox.warn(
                    f"changed {key}", f"the MLflow run keeps {key} = {held[key]}, but continues with {text}"
                )
            client.log_batch(
                run_id,
                params=[Param(key, text) for key, text in texts.items() if key not in held],
                tags=[RunTag(f"changed.{key}", text) for key, text in changed.items()],
            )
            for key in texts.keys() - changed.keys():
                if f"changed.{key}" in run.tags:  # back to the original value
                    client.delete_tag(run_id, f"changed.{key}")

        self._put("parameters", send)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags; a later value replaces an earlier one."""
        texts = clean_tags(tags)

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(key, text) for key, text in texts.items()])

        self._put(f"tags {', '.join(texts)}", send)

    def log_history(self, history: Sequence[Row]) -> None:
        """Send the rows that the store does not have, so that a resume leaves no gap and no duplicate.

        Args:
            history: the whole history so far, in the order of its epochs; the metric's step is the epoch.
                The curves best.AP, best.AP50, .. are made of it.
        """
        rows = with_best(history)

        def send(client: MlflowClient, run_id: str) -> None:
            last, self._last_epoch = self._last_epoch, None  # unknown if an answer is lost below
            if last is None:
                last = last_epoch_in_store(client, run_id)
            # LEDGER is the last of a row's metrics, also where MLflow sends them a thousand at a time: so the store
            # shows which rows have arrived
            for row in rows:
                epoch = int(row["epoch"] or 0)
                if epoch > last:
                    client.log_batch(run_id, metrics=as_metrics(row, epoch))
                    last = epoch
            self._last_epoch = last

        self._put("history", send)

    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add one point to each metric, at step 0 if none is given."""
        points = as_metrics(metrics, step or 0)
        self._put(
            f"metrics {', '.join(metrics)} at step {step}", lambda client, run_id: client.log_batch(run_id, points)
        )

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or a folder with its content."""
        path = path.resolve()
        self._put(f"artifact {path}", lambda client, run_id: client.log_artifact(run_id, str(path), folder))

    def link_artifact(self, path: str, title: str) -> None:
        """Link a file of the run in its description."""
        self._put(f"link to {path}", lambda client, run_id: link_artifact(client, run_id, path, title))

    def log_text(self, text: str, name: str) -> None:
        """Store a text as a file; its name may contain folders."""
        self._put(f"text {name}", lambda client, run_id: client.log_text(run_id, text, name))

    def log_picture(self, key: str, picture: Path | bytes, step: int) -> None:
        """Store an image in the image grid, with a slider over the steps.

        Args:
            picture: a PNG or JPEG file, or the bytes of one, which wait in memory while the store is away.
        """
        file, key = picture.resolve() if isinstance(picture, Path) else picture, clean_picture_key(key)

        def send(client: MlflowClient, run_id: str) -> None:
            from PIL import Image

            from retinanet.data.pixels import decode_rgb

            image = Image.fromarray(decode_rgb(file if isinstance(file, bytes) else file.read_bytes()))
            client.log_image(run_id, image, key=key, step=step)

        self._put(f"image {key} at step {step}", send)

    def log_dataset(self, *, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """Log a data set of the run.

        Args:
            digest: of the data; MLflow keeps 36 characters.
            source: path or URL.
            context: what it was for: training, validation, test.
            profile: counts that describe it.
        """

        def send(client: MlflowClient, run_id: str) -> None:
            dataset = as_dataset(name, digest=digest, source=source, context=context, profile=profile)
            client.log_inputs(run_id, [dataset])

        self._put(f"dataset {name} for {context}", send)

    def log_model(
        self,
        path: Path,
        *,
        class_names: Sequence[str],
        example: Picture | None = None,
        tags: Mapping[str, str] | None = None,
        card: str | None = None,
    ) -> str | None:
        """Store the model for `mlflow.pyfunc.load_model` and `mlflow models serve`, once per file.

        Args:
            path: of the exported model, models/model.pt.
            example: a small picture that goes with the model as its example input.
            tags: of the model, as the UI shows them in its list of models.
            card: its model card, in Markdown.

        Returns:
            The model's id, as in models:/<id>; None if it waits for the store to come back.
        """
        path, model_ids = path.resolve(), list[str]()
        self._put(
            f"model {path}",
            lambda client, run_id: model_ids.append(
                log_model(
                    client,
                    run_id,
                    path,
                    class_names=class_names,
                    example=example,
                    tags=clean_tags(tags or {}),
                    card=card,
                )
            ),
        )
        return model_ids[0] if model_ids else None

    def log_system_metrics(self) -> None:
        """Sample CPU, memory, disk, network and GPU of this machine until the run is finished.

        Called again, it goes on where the sampling has stopped because the store was away.
        """
        self._system_metrics.keep(self.run_id)

    def log_node_load(self, node: str, load: Mapping[str, float]) -> None:
        """Add a sample of another node to the system metrics; samples of all nodes are sent together, every 10 s.

        Args:
            node: host and address.
            load: metric -> value, named as by MLflow.
        """
        if self._node_metrics.add(node, load):
            self._put("load of the nodes", self._node_metrics.send)

    def finish(self, status: Status = "FINISHED") -> None:
        """Send waiting records and close the run, once; warn about records that still cannot be sent, and drop them."""
        if self._is_finished:
            return
        self._is_finished = True
        self._system_metrics.finish()
        if self._node_metrics.are_waiting:
            self._put("load of the nodes", self._node_metrics.send)
        lost = self._outbox.put_last("end of the run", lambda client, run_id: self._end(client, run_id, status))
        if lost:
            self._outbox.warn("loss", f"MLflow run {self.run_id} lacks records that were not sent: {'; '.join(lost)}")

    def _end(self, client: MlflowClient, run_id: str, status: Status) -> None:
        client.set_terminated(run_id, status)

    def _put(self, name: str, send: Send) -> None:
        self._outbox.put(name, send)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            failed = issubclass(kind, Exception) and not issubclass(kind, StoppedError)
            self.finish("FAILED" if failed else "KILLED")
