"""The configuration of a worker: parameters, resources and inputs, frozen and picklable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.params import Params
from pipeline.params.runtime import RuntimeConfig
from pipeline.params.sweep import Thresholds
from pipeline.runs.inputs import publish


@dataclass(frozen=True)
class InputFiles:
    """The inputs of a training, as absolute paths or URLs, because workers run elsewhere.

    Attributes:
        train, val: prepared files.
        root: of the pictures.
        cache_folder: for pictures of a URL, on the disk of each node; None: no cache.
        sample_ids: ids of the validation images that are drawn after every evaluated epoch.
        run: the folder of the run in the storage.
    """

    train: str
    val: str
    root: str
    cache_folder: str | None = None
    sample_ids: tuple[int, ...] = ()
    run: str = ""


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a worker.

    Attributes:
        description: of the detector, in plain values, as its file holds it.
        trials_at_once: at most, on the whole cluster; None outside a sweep.
        thresholds: searched on the detector of every trial; None outside a sweep.
    """

    params: Params
    runtime: RuntimeConfig
    description: dict[str, Any]
    data: InputFiles
    trials_at_once: int | None = None
    thresholds: Thresholds | None = None

    @property
    def is_trial(self) -> bool:
        """Whether this is a trial of a sweep."""
        return self.thresholds is not None


def with_weights(params: Params, weights: str | None) -> Params:
    """The parameters with another file of pretrained weights."""
    return params.model_copy(update={"model": params.model.model_copy(update={"weights": weights})})


def publish_inputs(config: WorkerConfig, storage: str) -> WorkerConfig:
    """Copy the files of this machine to the storage; the configuration that names them there."""
    data = replace(
        config.data, train=publish(Path(config.data.train), storage), val=publish(Path(config.data.val), storage)
    )
    params, weights = config.params, config.params.model.weights
    if weights is not None:
        params = with_weights(params, publish(Path(weights), storage))
    return replace(config, data=data, params=params)
