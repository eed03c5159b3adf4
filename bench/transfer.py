"""Transfer: trainings that start from a detector of drawn shapes, beside the same trainings from random weights.

    python -m bench.transfer [--voc FOLDER] [--source FILE] [--seeds 1 2 3] [--write]

Both sides have the same data, settings, seeds and epochs; only model.weights differs. The source is trained first, on
the discs and squares of --pictures pictures. From it start trainings on all three shapes and on triangles alone, with
--few other pictures, and, with --voc, on a VOC data set such as BCCD with presets/bccd.yaml. AP is that of the test
split, by the detector of the last epoch.

The settings are those of a training from scratch, also for the fine-tuning. One worker in a process of its own, without
Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import yaml

from bench.ratios import header, keep, table

REPOSITORY = Path(__file__).resolve().parents[1]
SHAPES = REPOSITORY / "params.yaml"
SOURCE = "discs and squares"


class Task(NamedTuple):
    """A training.

    Attributes:
        preset: its params.yaml.
        changes: sections of it with other values.
    """

    name: str
    preset: Path
    changes: dict[str, dict[str, Any]]


class Result(NamedTuple):
    """AP and AP50 on test, and the seconds of the training."""

    AP: float
    AP50: float
    seconds: float


def main() -> None:
    """Print the table; --write keeps it in bench/RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, help="the folder of a VOC data set such as BCCD; none: shapes alone")
    parser.add_argument("--pictures", type=int, default=480, help="of the source (default: 480)")
    parser.add_argument("--few", type=int, default=96, help="pictures of a fine-tuning on shapes (default: 96)")
    parser.add_argument("--threads", type=int, default=2, help="of a training (default: 2)")
    parser.add_argument("--epochs", type=int, default=4, help="of a fine-tuning on shapes (default: 4)")
    parser.add_argument("--voc-epochs", type=int, default=6, help="of a training on the VOC data set (default: 6)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--source", type=Path, help="a detector's file to start from, instead of training one")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return train_here(Path(options.child[0]), Path(options.child[1]))
    before = header().partition("\n")[0]  # the load before
    with tempfile.TemporaryDirectory(prefix="transfer") as name:
        text = f"{before}\n\n{report(list(measure(Path(name), options)))}"
    print(text)
    if options.write:
        keep("Transfer from drawn shapes", text)


def measure(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, str, int, Result]]:
    """Task, start, seed and result of every training, the source first."""
    weights = options.source
    if weights is None:
        weights = folder / "source.pt"
        prepare(folder / "source", source(options.pictures), seed=1, threads=options.threads)
        yield SOURCE, "scratch", 1, train(folder / "source", weights=None, model=weights)
    for task, target in enumerate(targets(options)):
        for seed in options.seeds:
            project = folder / f"{task}-{seed}"
            # The pictures of the fine-tuning are drawn with other seeds than those of the source.
            prepare(project, target, seed=100 + seed, threads=options.threads)
            for start, file in (("scratch", None), (SOURCE, weights.resolve())):
                result = train(project, weights=file, model=project / "model.pt")
                print(target.name, start, seed, result, flush=True)
                yield target.name, start, seed, result


def source(pictures: int) -> Task:
    """The training that the others start from."""
    data = {"classes": ["disc", "square"], "shapes": {"train": pictures}}
    return Task(SOURCE, SHAPES, {"data": data, "train": {"evaluate_every": 8}})


def targets(options: argparse.Namespace) -> Iterator[Task]:
    """What is trained from scratch and from the source."""
    few = {"epochs": options.epochs, "evaluate_every": options.epochs}
    shapes = {"train": options.few, "val": 20}
    yield Task("three shapes", SHAPES, {"data": {"shapes": shapes}, "train": few})
    yield Task("triangles", SHAPES, {"data": {"shapes": shapes, "classes": ["triangle"]}, "train": few})
    if options.voc is not None:
        epochs = {"epochs": options.voc_epochs, "evaluate_every": options.voc_epochs}
        preset = REPOSITORY / "presets/bccd.yaml"
        yield Task(options.voc.name, preset, {"data": {"root": str(options.voc.resolve())}, "train": epochs})


def prepare(project: Path, task: Task, *, seed: int, threads: int) -> None:
    """A project with its data and anchors."""
    params = yaml.safe_load(task.preset.read_text())
    for section, values in task.changes.items():
        for key, value in values.items():
            both = isinstance(params[section][key], dict)
            params[section][key] = params[section][key] | value if both else value
    params["seed"] = seed
    project.mkdir()
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(REPOSITORY / "conf", project / "conf")
    runtime = yaml.safe_load((project / "conf/local.yaml").read_text()) | {"cpus_per_worker": threads}
    (project / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    run(project, "-m", "pipeline.prepare")
    run(project, "-m", "pipeline.anchor_stats")


def train(project: Path, *, weights: Path | None, model: Path) -> Result:
    """Train in a process of its own and evaluate on test.

    Args:
        model: file for the detector.
    """
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["model"]["weights"] = None if weights is None else str(weights)
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    printed = run(project, "-m", "bench.transfer", "--child", ".", str(model))
    return Result(*json.loads(printed.splitlines()[-1]))


def train_here(project: Path, model: Path) -> None:
    """Train the project of the current folder as one worker of this process; print AP, AP50 and seconds."""
    import torch

    from pipeline.fit.loop import load_splits, train_worker
    from pipeline.params import load_params
    from pipeline.params.runtime import load_runtime
    from pipeline.runs.identity import BEST
    from pipeline.worker_config import worker_config
    from retinanet.data.dataset import EvaluationBatches, prefetch
    from retinanet.data.splits import load_split
    from retinanet.evaluation.coco_eval import evaluate_detections
    from retinanet.inference.detector import Detector
    from retinanet.network.precision import native_precision
    from tests.alone import alone

    params, runtime = load_params(), load_runtime().model_copy(update={"precision": native_precision(False)})
    config = worker_config(params, runtime, digest="transfer", run=str(project.resolve()))

    def write(metrics: dict[str, Any], write_checkpoint: Any) -> None:
        if not metrics["is_partial"] and len(metrics["history"]) == params.train.epochs:
            Path("last").mkdir(exist_ok=True)
            write_checkpoint(Path("last"))

    begun = time.monotonic()
    train_worker(config, replace(alone(), report=write, send_event=tell), *load_splits(config.data, keep_bytes=2**31))
    seconds = time.monotonic() - begun
    shutil.copyfile(Path("last") / BEST, model)
    detector = Detector.load(model, torch.device("cpu"))
    split = load_split(Path("data/prepared/test.json"), root=config.data.root)
    batches = EvaluationBatches(split, detector.transforms, batch_size=8, rank=0, num_workers=1)
    loader = prefetch(batches, processes=0, device=detector.device)
    found = {i: (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy()) for i, d in detector.predict(loader)}
    metrics = evaluate_detections(json.loads(Path("data/prepared/test.json").read_text()), found).metrics
    print(json.dumps([metrics["AP"], metrics["AP50"], seconds]))


def tell(event: dict[str, Any]) -> None:
    """Say what was loaded of the weights."""
    if event["kind"] == "weights":
        print(event["text"], file=sys.stderr, flush=True)


def run(project: Path, *arguments: str) -> str:
    """What a command of this Python prints, in the project."""
    outside = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "PIPELINE_CONF", "RAY_ADDRESS", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in outside}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def report(rows: Sequence[tuple[str, str, int, Result]]) -> str:
    """A line per task and start: AP of every seed, and the means."""
    cells = []
    for name, start in dict.fromkeys((name, start) for name, start, _, _ in rows):
        found = [result for task, begin, _, result in rows if (task, begin) == (name, start)]
        each = ", ".join(f"{result.AP:.3f}" for result in found)
        means = [f"{mean(result[i] for result in found):.3f}" for i in (0, 1)]
        cells.append([name, start, each, *means, f"{mean(result.seconds for result in found):.0f}"])
    return table(["training", "starts from", "AP of each seed", "AP", "AP50", "s"], cells)


if __name__ == "__main__":
    main()
