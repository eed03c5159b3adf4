"""Write reports/evaluate.html, of the project's detector or of another one's results file."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pipeline.evaluate.page import Evaluation, build_page
from pipeline.evaluate.proposals import Row
from pipeline.params import Params, flatten
from pipeline.storage.outs import write_atomic
from pipeline.tracking import provenance_tags
from retinanet.data.splits import Split
from retinanet.evaluation.analysis import Analysis
from retinanet.evaluation.coco_eval import PrecisionRecallPoint
from retinanet.evaluation.score_matches import ThresholdPoint

TRAINING = Path("plots/training.csv")


class Curves(NamedTuple):
    """Curves of a detector on the split, and the threshold of all classes together at its working point."""

    precision_recall: Sequence[PrecisionRecallPoint]
    thresholds: Sequence[ThresholdPoint]
    overall_threshold: float | None


def write_report(
    path: Path,
    analysis: Analysis,
    curves: Curves,
    split: Split,
    params: Params,
    trained: Mapping[str, Any],
    *,
    other: Path | None,
) -> None:
    """Write the page.

    Args:
        trained: `run` of the detector's description: digest and epoch.
        other: file of a detector that is not the project's, whose curves are not in TRAINING, and which no commit and
            parameters of the project give.
    """
    if other is None:
        reproduce = provenance_tags(params=flatten(params.model_dump()), run_digest=trained["digest"]).get("reproduce")
    else:
        reproduce = shlex.join(["python", "-m", "pipeline.evaluate", "--model", str(other)])
    training = {
        "run": trained["digest"],
        "epoch": None if "imported" in trained else trained.get("epoch"),
        "imported": trained.get("imported"),
        "history": read_history(TRAINING) if other is None else [],
    }
    _write_page(path, analysis, curves, split, params, reproduce=reproduce, **training)


def write_given_report(
    path: Path, analysis: Analysis, curves: Curves, split: Split, params: Params, *, given: str, reproduce: str
) -> None:
    """Write the page of another detector's results file, without what a training would say.

    Args:
        given: name of the file.
        reproduce: the command that judges it.
    """
    _write_page(path, analysis, curves, split, params, reproduce=reproduce, given=given)


def _write_page(path: Path, analysis: Analysis, curves: Curves, split: Split, params: Params, **origin: Any) -> None:
    """Write the page; origin: what Evaluation says of where the detections come from."""
    names = {record.image_id: record.path for record in split.records}
    page = build_page(
        Evaluation(analysis=analysis, params=params, names=names, read=reader_of(split), **curves._asdict(), **origin)
    )
    write_atomic(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def reader_of(split: Split) -> Callable[[int], Image.Image]:
    """The function that reads the picture of an image id."""
    index_of = {record.image_id: index for index, record in enumerate(split.records)}
    return lambda image_id: Image.fromarray(split.picture(index_of[image_id]).permute(1, 2, 0).numpy())


def read_history(path: Path) -> list[Row]:
    """The rows of plots/training.csv; none where it is missing, as with a model from elsewhere."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(text) if text else None for key, text in row.items()} for row in csv.DictReader(file)]
