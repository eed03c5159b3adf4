"""Detect on a cluster by Ray Data; imports neither Ray nor the detector before they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.progress import Count
from pipeline.params.paths import storage_location
from pipeline.params.runtime import RuntimeConfig, is_elsewhere, load_runtime, runtime_path
from pipeline.predict.inputs import Source
from pipeline.predict.shards import Job, ShardFolder, choose_shard_size, digest_list
from pipeline.runs.identity import digest_file
from pipeline.runs.inputs import publish

if TYPE_CHECKING:
    from pipeline.predict.ray_data import Work


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a worker.

    Attributes:
        model: file of the detector, as an absolute path or URL.
        thresholds: score of each class, exclusive.
        calibrate: whether scores are calibrated.
        folder: of relative locations.
        root: folder that holds all pictures that are files; None where there are none.
        device: cpu or cuda.
        threads, processes: of the worker, and of those that read and decode ahead.
    """

    model: str
    thresholds: list[float]
    calibrate: bool
    folder: str
    root: str | None
    device: str
    threads: int
    processes: int


def predict_on_ray(
    sources: Sequence[Source],
    model: Path,
    *,
    thresholds: Sequence[float],
    temperature: float | None,
    classes: Sequence[str],
    output: str,
) -> tuple[int, str]:
    """Detect on the pictures whose shards are missing in the output, and write these.

    Args:
        model: file of the detector.
        thresholds: score of each class, exclusive.
        temperature: with which scores are calibrated; None: they are not.
        classes: names of the classes.
        output: path or URL of the folder of results.

    Returns:
        The number of pictures that could not be read, and the first of them with the reason.

    Raises:
        ValueError, RuntimeError: as of ShardFolder, cluster.start_ray and map_shards.
    """
    runtime = load_conf()
    locations = [source.location for source in sources]
    folder = ShardFolder(output)
    job = folder.open(
        Job(
            pictures=len(locations),
            list_sha256=digest_list(locations),
            model_sha256=digest_file(model),
            classes=list(classes),
            thresholds=list(thresholds),
            shard_pictures=choose_shard_size(len(locations), runtime.most),
            temperature=temperature,
        )
    )
    missing = sorted(set(range(job.shards)) - folder.done())
    left = sum(len(job.places(shard)) for shard in missing)
    if left < len(locations):
        print(f"{len(locations) - left} of {len(locations)} pictures are done; going on", flush=True)
    with Count(len(locations), title="predict", units="images") as count:
        count(len(locations) - left)
        shards = [(shard, [locations[place] for place in job.places(shard)]) for shard in missing]
        for number, content in detect_shards(shards, model, job, runtime) if shards else ():
            folder.write_shard(number, content)
            count(len(job.places(number)))
    return folder.summarise(job)


def load_conf() -> RuntimeConfig:
    """Load conf/.

    Raises:
        ValueError: where there is none, as outside a project.
    """
    if not runtime_path().exists():
        raise ValueError(
            f"--ray needs a file of conf/, which says where Ray runs and with how many workers, and {runtime_path()} "
            "does not exist; run in the folder of a project, or name the file in PIPELINE_CONF"
        )
    return load_runtime()


def detect_shards(
    shards: Sequence[tuple[int, list[str]]], model: Path, job: Job, runtime: RuntimeConfig
) -> Iterator[tuple[int, bytes]]:
    """Start Ray and detect on these shards; yield number and Parquet file of each as they come."""
    from pipeline import cluster
    from pipeline.predict.ray_data import Shard, map_shards

    resources = cluster.Resources.of(runtime)
    root = find_root([location for _, locations in shards for location in locations])
    config = configure(model, job, runtime, root=root)
    with cluster.start_ray(runtime.address, resources):
        if is_elsewhere(runtime.address):
            config = replace(config, model=publish(model, storage_location(runtime)))
        for done in map_shards(partial(prepare, config), [Shard(*shard) for shard in shards], resources):
            yield done.number, done.content


def configure(model: Path, job: Job, runtime: RuntimeConfig, *, root: str | None) -> WorkerConfig:
    """The configuration of the workers of a job."""
    return WorkerConfig(
        model=str(model.resolve()),
        thresholds=job.thresholds,
        calibrate=job.temperature is not None,
        folder=str(Path.cwd()),
        root=root,
        device="cuda" if runtime.gpus_per_worker > 0 else "cpu",
        threads=runtime.cpus_per_worker,
        processes=runtime.loader_processes,
    )


def prepare(config: WorkerConfig) -> Work:
    """See prepare_worker; the driver, which passes this function on, does not import what it needs."""
    from pipeline.predict.worker import prepare_worker

    return prepare_worker(config)


def find_root(locations: Sequence[str]) -> str | None:
    """The innermost folder that holds all pictures that are files, as an absolute path; None where there are none."""
    folders = {os.path.dirname(os.path.abspath(location)) for location in locations if "://" not in location}
    return os.path.commonpath(folders) if folders else None
