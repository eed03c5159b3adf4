"""The page reports/compare.html: two runs side by side, one file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.compare import report
from pipeline.compare.image_differences import ImageDifference, detections_of
from pipeline.pages.album import Album, Card, Mark, mark_of
from pipeline.pages.charts import BLUE, GREY, INK, RED, as_label, new_chart
from pipeline.pages.rendering import figure_uri, render_page
from retinanet.data.splits import Split
from retinanet.evaluation.bootstrap import Difference
from retinanet.evaluation.class_matches import match_detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES_SHOWN = 20  # in the chart, those that differ most
BETTER, WORSE = "better", "worse"
KINDS = {BETTER: "B is better", WORSE: "B is worse"}
LEGEND = (
    ("right", "right detection"),
    ("wrong", "wrong detection"),
    ("truth", "object found"),
    ("missed", "object missed"),
)


class SideBySide(NamedTuple):
    """The pictures on which two runs differ.

    Attributes:
        category_ids: by label.
        results, thresholds: of A and of B.
    """

    split: Split
    category_ids: Sequence[int]
    differences: Sequence[ImageDifference]
    results: Sequence[Sequence[Mapping[str, Any]]]
    thresholds: Sequence[float]


def build_page(
    *,
    metrics: Mapping[str, Difference],
    runs: Sequence[str],
    facts: str,
    notes: Sequence[str],
    changes: str,
    pictures: SideBySide | None,
) -> str:
    """Return the HTML.

    Args:
        runs: labels of A and B.
        facts: split, images, resamples.
        changes: as report.changes_text writes them.
        pictures: None where they cannot be read here.
    """
    cards, stored = ([], []) if pictures is None else _place(pictures)
    return render_page(
        "pipeline.compare",
        "page.html",
        verdict=report.verdict(metrics),
        runs=runs,
        facts=facts,
        notes=notes,
        changes=changes,
        chart=figure_uri(draw_metrics(metrics)),
        metrics=[_row(name, metric) for name, metric in metrics.items()],
        cards=cards,
        kinds=KINDS,
        legend_entries=LEGEND,
        pictures=stored,
        no_pictures="The pictures cannot be read here." if pictures is None else "No picture differs.",
    )


def draw_metrics(metrics: Mapping[str, Difference]) -> Figure:
    """B - A of each metric with its interval; of many classes those that differ most."""
    known = {name: one for name, one in metrics.items() if one.difference is not None}
    classes = sorted((n for n in known if n.startswith("per_class.")), key=lambda n: -abs(known[n].difference or 0.0))
    names = [name for name in known if name not in classes] + classes[:CLASSES_SHOWN]
    chart, axes = new_chart(width=6.0, height=1.0 + 0.36 * max(2, len(names)))
    axes.axvline(0, color=INK, linewidth=1)
    for place, name in enumerate(names):
        one = known[name]
        low, high = one.low or 0.0, one.high or 0.0
        colour = BLUE if low > 0 else RED if high < 0 else GREY
        axes.plot([low, high], [place, place], color=colour, linewidth=2.5, marker="|", markersize=8)
        axes.plot([one.difference or 0.0], [place], "o", color=colour)
    axes.set_yticks(range(len(names)), [as_label(_short(name)) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("worse  <  B - A  >  better")
    return chart


def _short(name: str) -> str:
    return name.removeprefix("per_class.").removesuffix(".AP")


def _row(name: str, metric: Difference) -> dict[str, str]:
    if metric.difference is None:
        return {"name": _short(name), "a": "-", "b": "-", "difference": "-", "interval": "", "share": ""}
    return {
        "name": _short(name),
        "a": f"{metric.a:.3f}",
        "b": f"{metric.b:.3f}",
        "difference": f"{metric.difference:+.3f}",
        "interval": f"{metric.low:+.3f} to {metric.high:+.3f}",
        "share": f"{100 * (metric.b_better or 0.0):.1f} %",
    }


def _place(pictures: SideBySide) -> tuple[list[Any], list[Any]]:
    """Cards of A and B in turn, and their pictures."""
    split = pictures.split
    index_of = {split.records[one.index].image_id: one.index for one in pictures.differences}
    names = {image_id: split.records[index].path for image_id, index in index_of.items()}

    def read(image_id: int) -> Image.Image:
        return Image.fromarray(split.picture(index_of[image_id]).permute(1, 2, 0).numpy())

    album = Album(read, names, marks=lambda image_id: [])
    cards = [_card(pictures, one, run) for one in pictures.differences for run in (0, 1)]
    return album.place(cards), list(album.pictures.values())


def _card(pictures: SideBySide, one: ImageDifference, run: int) -> Card:
    f1 = (one.f1_a, one.f1_b)[run]
    line = f"{'AB'[run]}: F1 {f1:.2f}"
    return Card(
        image_id=pictures.split.records[one.index].image_id,
        kind=BETTER if one.f1_b > one.f1_a else WORSE,
        lines=[line, one.file_name],
        caption=f"{line}, {one.file_name}",
        marks=marks_of(pictures, one.index, run),
    )


def marks_of(pictures: SideBySide, index: int, run: int) -> list[Mark]:
    """The truths of a picture, and the detections of a run at its threshold, judged at IoU 0.5."""
    record, names = pictures.split.records[index], pictures.split.class_names
    label_of = {category_id: label for label, category_id in enumerate(pictures.category_ids)}
    boxes, scores, labels = detections_of(pictures.results[run], record.image_id, label_of)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= pictures.thresholds[run]]
    truths, truth_labels = record.boxes.numpy(), record.labels.numpy()
    matches = match_detections(boxes[order], labels[order], truths, truth_labels).tolist()
    marks = []
    for row, (box, label) in enumerate(zip(truths, truth_labels.tolist(), strict=True)):
        kind = "truth" if row in matches else "missed"
        marks.append(mark_of(box, kind, "" if kind == "truth" else f"{names[label]} missed"))
    for row, match in zip(order.tolist(), matches, strict=True):
        text = f"{names[labels[row]]} {scores[row]:.2f}"
        marks.append(mark_of(boxes[row], "right" if match >= 0 else "wrong", text))
    return marks
