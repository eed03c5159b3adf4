"""Laws of reports/evaluate.html: one file without the network, the figures of the report, names that are text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate.cards import deal, judge, whole_cards, worst_cards
from pipeline.evaluate.page import Evaluation, build_page
from pipeline.pages.album import Album, Card, view_of
from pipeline.params import load_params
from retinanet.evaluation.analysis import Analysis, Calibration, CalibrationBin, Confusion, Figure, LabelMistake
from retinanet.evaluation.coco_eval import PrecisionRecallPoint
from retinanet.evaluation.score_matches import ThresholdPoint
from tests.made_up_analysis import (
    Detection,
    Truth,
    figure,
    make_analysis,
    make_band,
    make_class,
    make_errors,
)

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror=alert(2)> 'b' $x_{$", "__a$^")
IMAGES = {4: "a.png", 5: "b.png"}
TRUTHS = (Truth(4, (10, 10, 50, 50)), Truth(4, (60, 10, 90, 60), 1, found=False), Truth(5, (0, 0, 20, 20), 1))
DETECTIONS = (
    Detection(4, (10, 10, 52, 50), 0.9, 0, "right", 0, 0.95),
    Detection(4, (60, 10, 75, 60), 0.8, 1, "localisation", 1, 0.4),
    Detection(5, (50, 50, 80, 80), 0.7, 0, "background"),
    Detection(5, (0, 0, 20, 20), 0.6, 1, "right", 2, 1.0),
    Detection(5, (0, 0, 21, 20), 0.2, 0, "classification", 2, 0.9, in_use=False),
)


def page_of(analysis: Analysis, images: dict[int, str] | None = None, **changes: Any) -> str:
    known: dict[str, Any] = {
        "params": load_params(ROOT / "params.yaml"),
        "names": IMAGES if images is None else images,
        "read": lambda image_id: Image.new("RGB", (100, 80), (90, 10 * image_id % 250, 90)),
        "run": "d1-c0de",
        "epoch": 3,
        "reproduce": "git checkout abc && dvc repro",
    }
    return build_page(Evaluation(analysis=analysis, **known | changes))


def full_analysis(names: tuple[str, ...] = ("cell", "virus"), **parts: Any) -> Analysis:
    """An analysis with all parts."""
    bins = [CalibrationBin(0.0, 0.5, 4, 0.3, 0.5), CalibrationBin(0.5, 1.0, 0, None, None)]
    mistake = LabelMistake("other class", 0.9, 5, "b.png", (0, 0, 21, 20), 0, 0.9, 12, (0, 0, 20, 20), 1, 0.9)
    known: dict[str, Any] = {
        "errors": make_errors(DETECTIONS, TRUTHS, {"missed": 0.123}),
        "confusion": Confusion(list(names), np.arange((len(names) + 1) ** 2).reshape(len(names) + 1, -1)),
        "bands": [make_band(0, 32, 0.5), make_band(32, None, 0.9)],
        "calibration": Calibration(figure(0.2), bins, 1.5, figure(0.1), bins),
        "mistakes": [mistake],
    }
    return make_analysis(names, **known | parts)


CURVES: dict[str, Any] = {
    "precision_recall": [PrecisionRecallPoint("cell", 0.5, r / 10, 1 - r / 20, 0.5) for r in range(11)],
    "thresholds": [ThresholdPoint("all classes", t / 10, t / 10, 1 - t / 10, 0.5) for t in range(11)],
    "overall_threshold": 0.4,
    "history": [{"epoch": e, "loss": 1 / e, "val_loss": 1.1 / e, "AP": e / 10, "AP50": None} for e in (1, 2, 3)],
}


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data


def test_page_is_one_file_that_refers_to_nothing_outside() -> None:
    text = page_of(full_analysis(), **CURVES)
    reader = Reader(text)
    links = [value for _, names in reader.elements for name, value in names.items() if name in ("src", "href")]
    assert len(links) > 20
    assert all(str(link).startswith(("data:image/", "#")) for link in links)
    assert {tag for tag, _ in reader.elements} & {"link", "iframe", "object", "base"} == set()
    assert "://" not in re.sub(r'"data:[^"]*"', "", text) and "url(" not in text


def test_the_policy_of_the_page_allows_its_own_script_alone() -> None:
    reader = Reader(page_of(full_analysis()))
    (script,) = reader.scripts
    policy = next(str(names["content"]) for tag, names in reader.elements if names.get("http-equiv"))
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, names in reader.elements for name in names)


def test_figures_are_those_of_the_analysis() -> None:
    classes = [make_class("cell", 0.91, ap75=figure(0.72)), make_class("virus", 0.31, threshold=0.4567)]
    text = page_of(full_analysis(overall={"AP": figure(0.6372), "recall": figure(0.7)}, classes=classes), **CURVES)
    assert re.findall(r"<dt>([\w ]+)</dt><dd>([\d.]+)<small>([^<]*)", text) == [
        ("AP", "0.637", "0.617 to 0.657"),
        ("recall", "0.700", "0.680 to 0.720"),
    ]
    rows = re.findall(r'<th scope="row">(\w+)</th><td class="number">100</td><td class="number">([\d.]+)<', text)
    assert rows == [("virus", "0.310"), ("cell", "0.910")]  # the weakest first
    assert re.search(r'virus</th><td class="number">0\.457<', text)
    assert "AP 0.637 (0.617 to 0.657)" in text and "objects that it misses (0.123 AP50)" in text
    assert "git checkout abc &amp;&amp; dvc repro" in text
    assert re.search(r"<code>loss\.gamma</code></td><td><code>2\.0</code>", text)


def test_numbers_of_the_confusion_lead_to_pictures_that_there_are() -> None:
    """Class 1 has a card of a bad place, class 0 one of a false alarm; nothing is missed and no class is wrong."""
    reader = Reader(page_of(full_analysis()))  # counts from 0 to 8
    links = [names for tag, names in reader.elements if tag == "a" and "data-class" in names]
    assert [(link["data-kind"], link["data-class"]) for link in links] == [("background", "0")]


def test_names_are_text() -> None:
    mistake = LabelMistake("not labelled", 0.9, 5, HOSTILE[1], (0, 0, 9, 9), 1, 0.9, None, None, None, 0.0)
    curves = CURVES | {"precision_recall": [PrecisionRecallPoint(HOSTILE[1], 0.5, 0.5, 0.5, 0.5)]}
    hostile = dict(zip(IMAGES, HOSTILE, strict=False))
    analysis = full_analysis(HOSTILE, mistakes=[mistake])
    reader = Reader(page_of(analysis, hostile, **curves, run=HOSTILE[0], reproduce=HOSTILE[0]))
    assert len(reader.scripts) == 1 and "alert" not in reader.scripts[0]
    assert not any(name.startswith("on") for _, names in reader.elements for name in names)
    assert HOSTILE[0] in reader.text and HOSTILE[1] in reader.text


def run_charts(text: str) -> list[str | None]:
    """What the charts of the section on the run show."""
    reader = Reader(text[text.index('id="run"') :])
    return [names["alt"] for tag, names in reader.elements if tag == "img"]


def test_curves_of_the_training_are_those_that_its_history_has() -> None:
    history = CURVES["history"]
    assert run_charts(page_of(full_analysis(), history=history)) == ["Losses and AP by epoch"]
    one_class = [row | {"per_class.cell.AP": row["AP"], "grad_norm": None} for row in history]
    assert run_charts(page_of(full_analysis(), history=one_class)) == ["Losses and AP by epoch"]
    names = (*HOSTILE, *MANY)
    more = [row | {f"per_class.{name}.AP": k / 100 for k, name in enumerate(names)} for row in history]
    more = [row | {"lr": 0.01, "grad_norm": 1.0, "grad_norm_max": 2.0} for row in more]
    assert run_charts(page_of(full_analysis(), history=more)) == [
        "Losses and AP by epoch",
        "AP of the classes by epoch",
        "Learning rate and gradient norm by epoch",
    ]


def test_page_says_ap_on_training_pictures_beside_that_on_val() -> None:
    known = [*CURVES["history"][:2], CURVES["history"][2] | {"train_AP": 0.93}]
    sentence = "AP is 0.93 on training pictures, 0.30 on val"
    assert sentence in page_of(full_analysis(), history=known)
    assert "AP 0.93 on training pictures, 0.30 on val: the detector fits its training pictures" in page_of(
        full_analysis(), history=known
    )
    assert "training pictures" not in page_of(full_analysis(), history=CURVES["history"])


MANY = tuple(f"class {k}" for k in range(80))
EMPTY: dict[str, Any] = {"overall": {"AP": Figure(None)}, "classes": [make_class("cell", None)]}
CASES: dict[str, tuple[Analysis, dict[str, Any], str]] = {
    "one class": (
        make_analysis(("cell",), errors=make_errors(DETECTIONS[:1], TRUTHS[:1])),
        {},
        "On 100 images of test the detector reaches AP 0.500",
    ),
    "no detections": (
        make_analysis(
            overall={"AP": figure(0.0)},
            classes=[make_class("cell", 0.0, threshold=None)],
            errors=make_errors((), [one._replace(found=False) for one in TRUTHS], {"missed": 1.0}),
            confusion=Confusion(["cell", "virus"], np.array([[0, 0, 1], [0, 0, 2], [0, 0, 0]])),
            calibration=Calibration(Figure(None), [], None, Figure(None), []),
        ),
        {},
        "python -m pipeline.diagnose",
    ),
    "no truths": (
        make_analysis(("cell",), **EMPTY, errors=make_errors([Detection(4, (1, 1, 9, 9), kind="background")])),
        {},
        "there is no ground truth",
    ),
    "crowds only": (
        make_analysis(("cell",), **EMPTY, errors=make_errors(), confusion=Confusion(["cell"], np.zeros((2, 2), int))),
        {},
        "there is no ground truth",
    ),
    "80 classes": (
        full_analysis(MANY),
        CURVES | {"precision_recall": [PrecisionRecallPoint(name, 0.5, 0.5, 0.5, 0.5) for name in MANY]},
        "The 15 classes with most errors of 80",
    ),
    "figures alone": (make_analysis(), {}, "It would"),
}
CASES["figures alone"] = (*CASES["figures alone"][:2], "weakest of 2 classes is cell")


@pytest.mark.parametrize("case", CASES)
def test_page_says_what_there_is(case: str) -> None:
    analysis, changes, sentence = CASES[case]
    text = page_of(analysis, **changes)
    assert sentence.lower() in text.lower()
    assert "nan" not in re.findall(r">\s*(nan|None|inf)\s*<", text)


@pytest.mark.parametrize("given", [None, "theirs.json"])
def test_a_split_without_objects_asks_for_another_and_for_no_training(given: str | None) -> None:
    text = page_of(make_analysis(("cell",), **EMPTY), given=given)
    assert text.count("Test has no objects, so there is nothing to measure") == 2  # in the verdict, and as advice
    assert "No rule asks for a change" not in text


def test_without_a_working_point_errors_are_counted_over_all_detections() -> None:
    errors = make_errors(DETECTIONS, TRUTHS)
    assert "In use: how many at the working point" in page_of(full_analysis(errors=errors))
    kinds = {kind: replace(one, count_in_use=None) for kind, one in errors.kinds.items()}
    text = page_of(full_analysis(errors=replace(errors, kinds=kinds)))
    assert ">how many</th>" in text and "In use:" not in text and ">in use" not in text


def test_without_ap50_nothing_is_drawn_of_what_errors_cost() -> None:
    errors = make_errors(DETECTIONS, TRUTHS)
    drawn = "AP50 that each kind of error costs"
    assert drawn in page_of(full_analysis(errors=errors))
    assert drawn not in page_of(full_analysis(errors=replace(errors, ap50=Figure(None))))


def test_page_stays_under_its_size_whatever_the_pictures() -> None:
    """Noise is the largest JPEG there is."""
    rng = np.random.default_rng(0)
    images = {number: f"{number}.png" for number in range(12)}
    detections = [Detection(number, (0, 0, 9, 9), 0.9 - number / 100, kind="background") for number in images]

    def read(image_id: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (640, 640, 3), dtype=np.uint8))

    album = Album(read, images, lambda image_id: [], max_bytes=1_000_000)
    judged = judge(make_errors(detections), ["cell"], images, score=0.4)
    placed = album.place(worst_cards(judged))
    assert sum(len(picture.uri) for picture in album.pictures.values()) <= 1_000_000
    assert len(placed) == len(album.pictures) == 12 - album.left_out
    assert 0 < len(placed) < 12


def test_a_picture_that_went_away_leaves_its_cards_out() -> None:
    def read(image_id: int) -> Image.Image:
        raise ValueError("gone")

    album = Album(read, {4: "a.png"}, lambda image_id: [])
    assert album.place([Card(4, "missed", [], "")]) == [] and album.left_out == 1


def test_a_card_shows_three_times_its_box_within_the_picture() -> None:
    assert view_of((40, 40, 60, 50), 200, 200) == "20.0 15.0 60.0 60.0"  # side 20 * 3, around (50, 45)
    assert view_of((0, 0, 20, 20), 200, 200) == "0.0 0.0 60.0 60.0"
    assert view_of((190, 190, 200, 200), 200, 200) == "160.0 160.0 40.0 40.0"  # at least a fifth of the picture
    assert view_of((0, 0, 100, 100), 200, 100) == view_of(None, 200, 100) == "0 0 200 100"


def test_mistakes_are_dealt_over_the_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2])
    assert deal([0, 1, 2, 3, 4, 5], labels, 4) == [0, 1, 4, 5]


def test_cards_say_what_was_there() -> None:
    cards = worst_cards(judge(make_errors(DETECTIONS, TRUTHS), ["cell", "virus"], IMAGES, score=0.4))
    told = {(card.kind, *card.lines) for card in cards}
    assert told == {
        ("localisation", "virus 0.80", "there: virus, IoU 0.40"),
        ("background", "cell 0.70", "no object there"),
    }
    missed = [Truth(4, (60, 10, 90, 60), 1, found=False)]
    weak = Detection(4, (60, 10, 90, 55), 0.3, 1, "right", 0, 0.9, in_use=False)
    (card,) = worst_cards(judge(make_errors([weak], missed), ["cell", "virus"], IMAGES, score=0.4))
    assert list(card.lines) == ["virus", "best there: virus 0.30, IoU 0.90"]


def test_the_random_choice_follows_from_the_seed_alone() -> None:
    images = {number: f"{number}.png" for number in range(100)}
    one, other = (judge(make_errors(rows), ["cell"], images, score=0.4) for rows in ((), [Detection(7, (0, 0, 9, 9))]))
    chosen = [
        [card.image_id for card in whole_cards(judged, images, seed=seed) if card.kind == "random"]
        for judged, seed in ((one, 1), (other, 1), (one, 2))
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 16
