"""Command export: publish the trained detector, in MLflow's registry, as a folder or as a file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.export.cards import card_of_file, card_of_model
from pipeline.export.files import Request, check_request, export_files
from pipeline.export.promotion import CHAMPION, Decision, decide
from pipeline.params.paths import storage_location
from pipeline.params.runtime import load_runtime, runtime_path
from pipeline.runs.identity import RUN_ID, RunFolder, digest_file
from pipeline.tracking import find_run
from pipeline.tracking.model import CARD
from pipeline.tracking.registry import (
    Registered,
    RunModel,
    check_name,
    copy_model,
    describe_model_run,
    find_model,
    register,
    weights_in,
    write_folder,
)
from retinanet.inference.detector_file import load_detector

MODEL = Path("models/model.pt")
FIGURES = ("AP", "AP50")
SPLITS = ("test", "val", "best")  # best.*: the best epoch of the training, on val
PYFUNC = "pyfunc"
WEIGHTS = "model.pt"


def run(
    *,
    register: str | None,
    alias: str,
    run_id: str | None,
    output: Path | None,
    path: Path = MODEL,
    request: Request | None = None,
    if_better: bool = False,
) -> bool:
    """Register a model, write it to a folder or to files for other programs; arguments of the command.

    Returns:
        False for a model that --if-better did not make the champion.
    """
    if register is not None:
        check_name(register, alias)
    if output is not None and output.exists():
        raise ValueError(f"--output {output} exists; give a new folder, or remove it")
    if request is not None:
        check_request(request)

    model, decision = find_model(run_id) if run_id else None, Decision(alias, "", None)
    if register is not None:
        model = model or model_of_file(path)
        decision = decide(model, register) if if_better else decision
        print_registered(register_model(model, name=register, decision=decision))
    if output is not None:
        write_output(output, model, path)
    if request is not None:
        write_files(request, model, path)
    return not if_better or decision.alias == CHAMPION


def write_files(request: Request, model: RunModel | None, path: Path) -> None:
    """Write the files that a request names, of the model of a run, else of a detector's file."""
    if model is not None:
        with tempfile.TemporaryDirectory() as folder:
            copy_model(model, Path(folder) / PYFUNC)
            export_files(weights_in(Path(folder) / PYFUNC), model, request, is_projects=False)
        return
    _, description = load_detector(path)
    run_id = None
    if runtime_path().exists() or "PIPELINE_CONF" in os.environ:  # else this is no project, whose storage it names
        run_id = RunFolder(storage_location(load_runtime()), description["run"]["digest"]).read(RUN_ID)
    if run_id is not None:
        with suppress(ValueError):  # the file then lacks the commit, no more
            model = find_model(run_id)
    export_files(path, model, request, is_projects=path == MODEL)


def model_of_file(path: Path) -> RunModel:
    """Return the logged MLflow model of a detector's file.

    Raises:
        ValueError: when the file, its run, or the run's copy of it is missing.
    """
    _, description = load_detector(path)
    storage = storage_location(load_runtime())
    digest = description["run"]["digest"]
    run_id = RunFolder(storage, digest).read(RUN_ID) or find_run("run_digest", digest)
    if run_id is None:
        raise ValueError(
            f"{path} comes from run {digest}, but neither {storage}/{digest} nor MLflow names its MLflow run; give "
            "one with --run, or run the train stage again while MLflow answers"
        )
    return find_model(run_id, digest=digest_file(path))


def register_model(model: RunModel, *, name: str, decision: Decision) -> Registered:
    """Register a model with its card, tags and metrics of its run, and the reason of a promotion."""
    split, figures = figures_of(model.metrics)
    known = {
        key: model.tags[key] for key in ("run_digest", "git.commit", "git.dirty", "data_hash") if key in model.tags
    }
    promotion = {"promotion": decision.reason, "promotion.against": decision.against}
    card = card_of_model(model)
    entry = register(
        model,
        name=name,
        alias=decision.alias,
        tags={
            **{key: f"{value:.4f}" for key, value in figures.items()},
            "split": split,
            **known,
            **card.tags,
            **{key: text for key, text in promotion.items() if text},
        },
        description=card.description,
    )
    describe_model_run(model.run_id, card.text, digest=model.tags.get("run_digest", ""))
    if decision.reason:
        print(f"{decision.alias}: {decision.reason}")
    return entry


def figures_of(metrics: Mapping[str, float]) -> tuple[str, dict[str, float]]:
    """Return the split of a run's last evaluation, with AP and AP50; those of training if there was none."""
    for split in SPLITS:
        figures = {key: metrics[f"{split}.{key}"] for key in FIGURES if f"{split}.{key}" in metrics}
        if figures:
            return ("val" if split == "best" else split), figures
    return "val", {}


def print_registered(entry: Registered) -> None:
    """Format the new state of the registry, and how to use it."""
    if entry.is_new:
        print(f"registered {entry.name} version {entry.version}")
    else:
        print(f"{entry.name} version {entry.version} is already this model; no new version was created")
    moved = f" (was version {entry.before})" if entry.before not in (None, entry.version) else ""
    print(f"alias {entry.alias} -> version {entry.version}{moved}: {entry.uri}")
    print(f'load    mlflow.pyfunc.load_model("{entry.uri}").predict(pandas.DataFrame({{"image": ["a.jpg"]}}))')
    print(f"serve   mlflow models serve -m {entry.uri} --env-manager local --host 127.0.0.1 --port 8080")


def write_output(folder: Path, model: RunModel | None, path: Path) -> None:
    """Write the folder atomically: under a temporary name first, then renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        whole.mkdir()
        if model is None:
            _, description = load_detector(path)
            names = [category["name"] for category in description["categories"]]
            write_folder(whole / PYFUNC, path.resolve(), class_names=names)
            card = card_of_file(path)
        else:
            copy_model(model, whole / PYFUNC)
            card = card_of_model(model)
        shutil.copyfile(weights_in(whole / PYFUNC), whole / WEIGHTS)
        for place in (whole, whole / PYFUNC):
            (place / CARD).write_text(card.text, encoding="utf-8")
        whole.rename(folder)
    print(f"wrote {folder / PYFUNC}, {folder / WEIGHTS} and {folder / CARD}")
    print(f"serve   mlflow models serve -m {folder / PYFUNC} --env-manager local --host 127.0.0.1 --port 8080")
