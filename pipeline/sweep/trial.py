"""One trial: the training of a run with other parameters, resumable, in a process of Ray Tune."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray.tune
import torch

from pipeline.cluster import Resources
from pipeline.cluster.storage import Checkpoints, WriteCheckpoint
from pipeline.cluster.training import run_trainer
from pipeline.cluster.worker import Worker
from pipeline.fit import fit
from pipeline.fit.config import InputFiles, WorkerConfig, with_weights
from pipeline.fit.ending import has_ended
from pipeline.fit.loop import load_splits, train_worker
from pipeline.fit.memory import picture_budget
from pipeline.params import Params
from pipeline.params.detector import Model
from pipeline.runs.identity import BEST, ROWS
from pipeline.runs.inputs import fetch
from pipeline.runs.sweep_folder import FINISHED, TRAIN, SweepFolder
from pipeline.storage.outs import read_json
from pipeline.sweep.anchors import trial_anchors
from pipeline.sweep.records import settings_of
from pipeline.sweep.sampler import COMPLETE, EPOCH, SCORE
from pipeline.sweep.space import params_with
from pipeline.sweep.thresholds import find_candidates, search_thresholds
from retinanet.data.splits import Split
from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import describe_detector

# A process of Ray Tune runs several trials, which share the decoded pictures.
_SPLITS: dict[InputFiles, tuple[Split, Split]] = {}


@dataclass(frozen=True)
class TrialBase:
    """What all trials of a sweep share; it can be pickled.

    Attributes:
        params: before a trial's settings.
        worker: the configuration of a worker, of which a trial replaces parameters and description.
        folder: path or URL of the sweep's folder.
        weights: path or URL of the file of initial weights, by weights_key.
    """

    params: Params
    worker: WorkerConfig
    folder: str
    resources: Resources
    weights: Mapping[str, str] = field(default_factory=dict)


def run_trial(configuration: dict[str, Any], base: TrialBase) -> None:
    """Train one configuration to its end, or until the scheduler stops it.

    Args:
        configuration: dotted parameter -> value, with seed, number and key.
    """
    # Under PBT the configuration may be another trial's; the name of the trial stays.
    configuration = {**configuration, "key": ray.tune.get_context().get_trial_name()}
    folder = SweepFolder(base.folder)
    record = folder.record(configuration["key"])
    if record is not None and record["state"] == FINISHED:
        report_history(record["history"], None, is_complete=True)
        return
    config = trial_config(configuration, base)
    try:
        if config.runtime.workers == 1:
            train_in_process(config, folder)
        else:
            train_distributed(config, base, folder)
    except FloatingPointError as error:
        # A setting that diverges is a result, and would diverge again.
        ray.tune.report({SCORE: 0.0, EPOCH: config.params.train.epochs, "history": [], "error": str(error)})


def trial_config(configuration: Mapping[str, Any], base: TrialBase) -> WorkerConfig:
    """The worker configuration of a trial: that of the base with its own parameters and anchors."""
    settings, worker = settings_of(configuration), base.worker
    params = params_with(base.params, settings)
    description = describe_detector(
        model=params.model.model_dump(),
        loss=params.loss.model_dump(),
        transforms=params.transforms.model_dump(),
        anchors=trial_anchors(params, SweepFolder(base.folder), train=worker.data.train),
        categories=worker.description["categories"],
        run={"digest": configuration["key"]},
    )
    params = with_weights(params, trial_weights(params, base))
    params = params.model_copy(update={"seed": configuration["seed"]})
    return replace(worker, params=params, description=description)


def trial_weights(params: Params, base: TrialBase) -> str | None:
    """The file of the initial weights, which the driver has fetched; that of the base where no setting changes them."""
    model, origin = params.model, base.params.model
    if (model.weights, model.backbone) == (origin.weights, origin.backbone):
        return base.worker.params.model.weights
    return None if model.weights is None else base.weights[weights_key(model)]


def weights_key(model: Model) -> str:
    """The initial weights of a section model, by name: imagenet is another file for each backbone."""
    return f"imagenet of {model.backbone}" if model.weights == "imagenet" else str(model.weights)


def train_in_process(config: WorkerConfig, folder: SweepFolder) -> None:
    """Train with one worker, in this process of Ray Tune."""
    latest = LastDetections()
    worker = Worker(
        rank=0,
        num_workers=1,
        device=torch.device("cuda" if config.runtime.gpus_per_worker else "cpu"),
        send_event=latest.on_event,
        report=lambda metrics, write: report_epoch(metrics, write, config, folder, latest),
        last_checkpoint=last_checkpoint,
    )
    if config.data not in _SPLITS:
        _SPLITS.clear()
        _SPLITS[config.data] = load_splits(config.data, keep_bytes=picture_budget(config, worker))
    train_worker(config, worker, *_SPLITS[config.data])


def report_epoch(
    metrics: Mapping[str, Any],
    write: WriteCheckpoint | None,
    config: WorkerConfig,
    folder: SweepFolder,
    latest: LastDetections,
) -> None:
    """Report an evaluated epoch with its checkpoint; write the best detector to the sweep's folder."""
    assert write is not None
    history = metrics["history"]
    if metrics["is_partial"] or history[-1].get("AP") is None:
        return
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        if history[-1]["AP"] >= best_ap(history):
            folder.write(f"trials/{key_of(config)}/detector.pt", (Path(temporary) / BEST).read_bytes())
        is_complete = has_ended(history, config.params.train)
        if is_complete:
            # Before the last report, at which a scheduler may end this process.
            write_thresholds(config, folder)
        checkpoint = ray.tune.Checkpoint.from_directory(temporary)
        report_history(history, checkpoint, is_complete=is_complete, found=latest.found)


def report_history(
    history: list[dict[str, Any]], checkpoint: Any, *, is_complete: bool, found: Mapping[int, Any] | None = None
) -> None:
    """Report the progress of a trial to Ray Tune.

    Args:
        is_complete: whether its training has ended.
        found: detections on the watched pictures.
    """
    figures = {SCORE: best_ap(history), EPOCH: history[-1]["epoch"], COMPLETE: is_complete}
    ray.tune.report({**figures, "history": history, "found": found or {}}, checkpoint=checkpoint)


class LastDetections:
    """The newest detections on the watched pictures."""

    def __init__(self) -> None:
        self.found: Mapping[int, Any] = {}

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Handle an event between two reports."""
        if event["kind"] == "detections":
            self.found = event["found"]


def best_ap(history: list[dict[str, Any]]) -> float:
    """The highest AP so far, of the best detector."""
    return max((row["AP"] for row in history if row.get("AP") is not None), default=0.0)


@contextmanager
def last_checkpoint() -> Iterator[Path | None]:
    """The folder of the newest checkpoint of this trial, or under PBT of the trial that it was cloned from."""
    checkpoint = ray.tune.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def train_distributed(config: WorkerConfig, base: TrialBase, folder: SweepFolder) -> None:
    """Train with several workers of a Ray Train run, and forward its reports to Ray Tune."""
    train, latest = config.params.train, LastDetections()

    def forward(event: dict[str, Any]) -> None:
        latest.on_event(event)
        if event["kind"] != "report" or event["is_partial"] or event["history"][-1].get("AP") is None:
            return
        # The last epoch is reported at the end: a scheduler may end this process at that report.
        if not has_ended(event["history"], train):
            report_history(event["history"], None, is_complete=False, found=latest.found)

    run_trainer(
        fit,
        config,
        resources=base.resources,
        name=key_of(config),
        storage=folder.path(TRAIN),
        on_event=forward,
    )
    checkpoints = Checkpoints.of(folder.path(TRAIN), key_of(config))
    newest = checkpoints.newest(print)
    if newest is None:
        raise RuntimeError(f"no checkpoint could be written to {folder.path('train')}")
    with checkpoints.opened(newest) as found:
        folder.write(f"trials/{key_of(config)}/detector.pt", (found / BEST).read_bytes())
        history = read_json(found / ROWS)
    write_thresholds(config, folder)
    report_history(history, None, is_complete=has_ended(history, train), found=latest.found)


def key_of(config: WorkerConfig) -> str:
    """The key of the trial."""
    key: str = config.description["run"]["digest"]
    return key


def write_thresholds(config: WorkerConfig, folder: SweepFolder) -> None:
    """Search the thresholds of post-processing for the trial's best detector, on the validation split.

    Not with tiles: which detections of tiles are joined depends on the thresholds, so each would need its own joining.
    """
    if config.params.transforms.tiles is not None:
        return
    thresholds, postprocess = config.thresholds, config.params.postprocess
    assert thresholds is not None
    own = f"trials/{key_of(config)}"
    weights = folder.read(f"{own}/detector.pt")
    assert weights is not None, own
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "detector.pt"
        path.write_bytes(weights)
        detector = Detector.load(path, "cuda" if config.runtime.gpus_per_worker else "cpu")
    _, split = _SPLITS.get(config.data) or load_splits(config.data)
    candidates = find_candidates(detector, split, postprocess=postprocess, lowest=min(thresholds.score_threshold))
    content = read_json(fetch(config.data.val))
    rows = search_thresholds(candidates, content, thresholds, max_detections=postprocess.max_detections)
    folder.write_json(f"{own}/thresholds.json", rows)
