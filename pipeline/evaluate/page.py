"""The page reports/evaluate.html: one file that opens offline. Parts that an analysis lacks are left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pipeline.evaluate.advice import advise, no_ground_truth
from pipeline.evaluate.cards import judge, marks_of, suspect_cards, whole_cards, worst_cards
from pipeline.evaluate.charts import KIND_NAMES
from pipeline.evaluate.given_rules import advise_given
from pipeline.evaluate.page_parts import (
    class_rows,
    condition_rows,
    confusion_table,
    draw_charts,
    error_rows,
    figure_tiles,
    speed_table,
    threshold_part,
)
from pipeline.evaluate.proposals import Row, value_of
from pipeline.evaluate.trust import trust_sentences
from pipeline.evaluate.verdict import judge_in_words
from pipeline.pages.album import Album, Card
from pipeline.pages.rendering import render_page
from pipeline.params import Params, flatten
from retinanet.evaluation.analysis import Analysis
from retinanet.evaluation.coco_eval import PrecisionRecallPoint
from retinanet.evaluation.score_matches import ThresholdPoint

ORDERS = {
    "worst": "worst first",
    "score": "by score",
    "large": "largest first",
    "small": "smallest first",
    "name": "by file",
}
WHOLE_KINDS = {"best": "the best: most objects, no mistake", "random": "a random choice"}
SUSPECT_KINDS = {"not-labelled": "not labelled?", "other-class": "other class?", "box": "box off?"}
LEGEND = (
    ("right", "right detection"),
    ("wrong", "wrong detection"),
    ("truth", "object that was found"),
    ("missed", "object, missed or mistaken"),
)
SECTIONS = ("seed", "transforms", "anchors", "matcher", "loss", "model", "optim", "train", "postprocess", "evaluate")


@dataclass(frozen=True)
class Evaluation:
    """What the page shows.

    Attributes:
        precision_recall, thresholds: curves; the last class of `thresholds` stands for all together.
        overall_threshold: of the working point of all classes together; None without one.
        history: a row per epoch of the training, if it is that of this detector.
        names: file name of every image of the split, by id.
        read: picture of an image id.
        run: digest of the training; epoch: of the detector.
        imported: project and file of a detector that another project trained.
        reproduce: command that reproduces it, if known.
        given: name of the results file of another detector, of which no parameters are known; None: ours.
    """

    analysis: Analysis
    params: Params
    names: Mapping[int, str]
    read: Callable[[int], Image.Image]
    run: str = ""
    epoch: int | None = None
    imported: str | None = None
    precision_recall: Sequence[PrecisionRecallPoint] = ()
    thresholds: Sequence[ThresholdPoint] = ()
    overall_threshold: float | None = None
    history: Sequence[Row] = field(default_factory=list)
    reproduce: str | None = None
    given: str | None = None


def build_page(evaluation: Evaluation) -> str:
    """Return the HTML."""
    analysis, params = evaluation.analysis, evaluation.params
    own = evaluation.given is None
    advice = advise(analysis, params, evaluation.history) if own else advise_given(analysis, params)
    if value_of(analysis, "AP") is None:
        advice = [no_ground_truth(params.evaluate.split)]
    return render_page(
        "pipeline.evaluate",
        "page.html",
        facts=_describe(evaluation),
        verdict=judge_in_words(analysis, advice, split=params.evaluate.split),
        advice=advice,
        tiles=figure_tiles(analysis),
        classes=class_rows(analysis),
        conditions=condition_rows(analysis),
        thresholds=threshold_part(
            analysis,
            evaluation.thresholds,
            evaluation.overall_threshold,
            params.evaluate.working_point,
            given_on=None if own else params.evaluate.split,
        ),
        trust=trust_sentences(analysis, evaluation.history, split=params.evaluate.split, is_given=not own),
        charts=draw_charts(analysis, evaluation.precision_recall, evaluation.history),
        speed=speed_table(analysis),
        parameters=_parameters(params) if own else {},
        class_options=dict(enumerate(analysis.class_names)),
        orders=ORDERS,
        whole_kinds=WHOLE_KINDS,
        legend_entries=LEGEND,
        **_pictures(evaluation),
    )


def _pictures(evaluation: Evaluation) -> dict[str, Any]:
    """The galleries, and the pictures that they share."""
    analysis, errors, names = evaluation.analysis, evaluation.analysis.errors, evaluation.analysis.class_names
    worst: list[Card] = []
    whole: list[Card] = []
    album = Album(evaluation.read, evaluation.names, marks=lambda image_id: [])
    if errors is not None:
        judged = judge(errors, names, evaluation.names, score=evaluation.params.evaluate.picture_score)
        album = Album(evaluation.read, evaluation.names, marks=lambda image_id: marks_of(judged, image_id))
        worst = worst_cards(judged)
        whole = whole_cards(judged, evaluation.names, seed=evaluation.params.seed)
    suspects = album.place(suspect_cards(analysis.mistakes, names))
    placed_whole = album.place(whole)  # before the mistakes, which are many
    mistakes = album.place(worst)
    worst_placed = [card.card for card in mistakes]
    kinds = {card.kind for card in worst_placed}
    suspected = {card.card.kind for card in suspects}
    return {
        "errors": error_rows(analysis, kinds),
        "errors_in_use": errors is not None and errors.kinds["missed"].count_in_use is not None,
        "confusion": confusion_table(
            analysis, {(one.card.kind, label) for one in mistakes for label in one.card.classes}
        ),
        "mistakes": mistakes,
        "mistake_kinds": {kind: name for kind, name in KIND_NAMES.items() if kind in kinds},
        "whole": placed_whole,
        "suspects": suspects,
        "suspect_kinds": {kind: name for kind, name in SUSPECT_KINDS.items() if kind in suspected},
        "pictures": list(album.pictures.values()),
        "album_left_out": album.left_out,
        "are_pictures_here": not album.unread,
    }


def _describe(evaluation: Evaluation) -> dict[str, Any]:
    analysis, split = evaluation.analysis, evaluation.params.evaluate.split
    epoch = "" if evaluation.epoch is None else f", epoch {evaluation.epoch}"
    intervals = ""
    if analysis.bootstrap is not None:
        level, resamples = analysis.bootstrap.level, analysis.bootstrap.resamples
        intervals = (
            f"Below a figure stands its {100 * level:.0f} % interval, from {resamples} bootstrap samples of images: "
            "where it would lie on other images of the same kind."
        )
    what = f"Run {evaluation.run}{epoch}" if evaluation.given is None else f"The detections of {evaluation.given}"
    if evaluation.imported is not None:
        what = f"Imported from {evaluation.imported}"
    return {
        "title": f"Evaluation on {split}",
        "subtitle": f"{what}, evaluated on {analysis.num_images} images",
        "is_given": evaluation.given is not None,
        "intervals": intervals,
        "reproduce": evaluation.reproduce,
    }


def _parameters(params: Params) -> dict[str, str]:
    """Dotted name -> value of the sections that a detector depends on, as params.yaml writes them."""
    values = flatten(params.model_dump(include=set(SECTIONS)))
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
