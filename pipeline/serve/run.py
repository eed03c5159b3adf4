"""Start the service and stop it: Ray, Ray Serve, the wait for a signal."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import serve

from pipeline.cluster import Resources, start_ray
from pipeline.cluster.signals import catch_stop_signals
from pipeline.detector.model import find_weights
from pipeline.runs.inputs import publish
from pipeline.serve.application import NAME, bind
from pipeline.serve.place import Place
from pipeline.serve.settings import Settings
from retinanet.inference.detector_file import load_detector

QUIET = {"enable_access_log": False, "log_level": "WARNING"}


def run_service(settings: Settings, place: Place, choose: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Serve until Ctrl-C or SIGTERM; pictures that were accepted by then are answered.

    Args:
        choose: by the description of the detector, the settings that depend on it.

    Raises:
        ValueError: when there is no such model.
    """
    with (
        found_model(settings, place, choose) as located,
        start_ray(place.address, place.resources),
        catch_stop_signals() as stop,
    ):
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(http_options={"host": place.host, "port": place.port}, logging_config=QUIET)
        try:
            deploy(located, place.resources)
            print(announce(settings, place), flush=True)
            stop.wait()
            print("stopping: what was accepted is answered", flush=True)
        finally:
            serve.delete(NAME)
    print("stopped", flush=True)


def deploy(settings: Settings, resources: Resources) -> None:
    """Start the replicas and wait until they answer.

    Raises:
        RuntimeError: when they do not, with the reason that Ray Serve knows.
    """
    application = bind(settings, num_replicas=resources.most, ray_actor_options=actor_options(resources))
    try:
        serve.run(application, name=NAME, logging_config=QUIET)
    except RuntimeError as error:
        status = serve.status().applications.get(NAME)
        told = [each.message for each in status.deployments.values()] if status else []
        reason = (told[0].strip() if told else str(error)).splitlines()[-1]
        raise RuntimeError(f"the replicas do not start: {reason}") from error


@contextmanager
def found_model(
    settings: Settings, place: Place, choose: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Iterator[Settings]:
    """Yield the settings for a detector, with a model that every replica can read while the body runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = find_weights(settings.model, Path(folder)).resolve()
        _, description = load_detector(path)
        chosen = choose(description)
        location = str(path) if place.storage is None else publish(path, place.storage)
        yield settings.model_copy(update={"model": location, **chosen})


def actor_options(resources: Resources) -> dict[str, Any]:
    """The options of a replica's actor, as ray.remote takes them."""
    # Ray gives the code to every worker of a training, but not to Serve's replicas.
    code = ray.get_runtime_context().runtime_env.get("py_modules")
    threads = {name: str(resources.cpus_per_worker) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    runtime_env = {"env_vars": threads | dict(resources.environment)} | ({"py_modules": list(code)} if code else {})
    options: dict[str, Any] = {"num_cpus": resources.cpus_per_worker, "runtime_env": runtime_env}
    if resources.gpus_per_worker:
        options["num_gpus"] = resources.gpus_per_worker
    if resources.accelerator_type is not None:
        options["accelerator_type"] = resources.accelerator_type
    if resources.labels:
        options["label_selector"] = dict(resources.labels)
    return options


def announce(settings: Settings, place: Place) -> str:
    """What is served, and where."""
    url = f"http://{place.host}:{place.port}"
    return (
        f"serving {settings.model}, replicas: {place.resources.most}, until Ctrl-C; a page: {url}/\n"
        f"curl --data-binary @picture.jpg {url}/detect"
    )
