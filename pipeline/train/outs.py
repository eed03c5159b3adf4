"""The outs of a training: reports and curves, and what of them goes to MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.fit.ending import TRAIN_AP
from pipeline.reports.training_curves import plot_training, write_classes_csv, write_history_csv
from pipeline.runs.inputs import ANCHORS, SPLITS
from pipeline.storage.outs import nest, read_json, write_atomic, write_json
from pipeline.tracking import Run, log_split
from pipeline.tracking.card import Measured, model_card
from retinanet.evaluation.analysis import Figure

MODEL = Path("models/model.pt")
REPORT = Path("reports/train.json")
EARLIER_OUTS = tuple(
    Path(name)
    for name in ("reports/prepare.json", "reports/prepare.html", "reports/anchor_stats.json", "plots/anchors.png")
)
HISTORY = Path("plots/training.csv")
CLASSES = Path("plots/training_classes.csv")
CURVES = Path("plots/training.png")


def write_reports(history: list[dict[str, Any]], *, best: Mapping[str, Any], digest: str) -> None:
    """Write the metrics of the best epoch with its AP on training pictures, and the curves of all epochs."""
    kept = {key: value for key, value in best.items() if key not in ("seconds", "images_per_s")}
    kept |= {key: history[-1][key] for key in (TRAIN_AP,) if key in history[-1]}
    write_json(REPORT, {"run": digest, "epochs": history[-1]["epoch"], "best": nest(kept)})
    write_atomic(HISTORY, lambda path: write_history_csv(history, path))
    write_atomic(CLASSES, lambda path: write_classes_csv(history, path))
    write_atomic(CURVES, lambda path: plot_training(history, path))


def card_of(
    best: Mapping[str, Any], *, params: Mapping[str, object], tags: Mapping[str, str], run_id: str | None
) -> str:
    """The model card of the training, with the figures of its best epoch on val."""
    figures = {key: Figure(value) for key, value in best.items() if key.rpartition(".")[2].startswith("AP")}
    measured = Measured("val", figures)
    return model_card(MODEL, measured=measured, params=params, tags=tags, run_id=run_id).text


def log_outs(run: Run, *, card: str) -> None:
    """Log data, parameters, reports, curves and the model to MLflow."""
    for name, path in SPLITS.items():
        log_split(run, name, path)
    earlier = [path for path in EARLIER_OUTS if path.is_file()]
    for artifact in (Path("params.yaml"), ANCHORS, *earlier, REPORT, CURVES):
        run.log_artifact(artifact)
    class_names = [category["name"] for category in read_json(SPLITS["train"])["categories"]]
    run.log_model(MODEL, class_names=class_names, card=card)
