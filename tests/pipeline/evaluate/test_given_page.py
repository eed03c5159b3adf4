"""Laws of the page of another detector's file: its faults in words for it, and nothing of our training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.evaluate.error_rules import RULES
from pipeline.evaluate.given_rules import PROPOSALS, advise_given
from pipeline.evaluate.page import Evaluation, build_page
from pipeline.params import flatten, load_params
from retinanet.evaluation.analysis import Analysis
from tests.made_up_analysis import Detection, Truth, figure, make_analysis, make_band, make_class, make_errors
from tests.pipeline.evaluate.test_advice import FAULTS
from tests.pipeline.evaluate.test_page import CURVES, IMAGES, Reader, full_analysis

ROOT = Path(__file__).resolve().parents[3]
PARAMS = load_params(ROOT / "params.yaml")
HOSTILE = '"><script>alert(1)</script>.json'
NOT_OF_ERRORS = ("over-fitting", "over-fitting (AP)", "short training", "nothing learnt")
OF_ERRORS = [rule for rule in FAULTS if rule not in NOT_OF_ERRORS]
WEAK = (Detection(4, (1, 1, 9, 9), 0.01),)  # a file that holds weak detections, too


def given_page(analysis: Analysis, **changes: Any) -> str:
    known: dict[str, Any] = {
        "params": PARAMS,
        "names": IMAGES,
        "read": lambda image_id: Image.new("RGB", (100, 80), (90, 90, 90)),
        "given": "theirs.json",
        "reproduce": "python -m pipeline.evaluate --detections theirs.json --output reports/theirs",
        **{name: values for name, values in CURVES.items() if name != "history"},
    }
    return build_page(Evaluation(analysis=analysis, **known | changes))


@pytest.mark.parametrize("rule", OF_ERRORS)
def test_a_fault_is_named_as_ours_is_and_its_proposal_names_no_key_and_no_command(rule: str) -> None:
    parts, _ = FAULTS[rule]
    (own,) = advise_given(make_analysis(**parts), PARAMS)
    assert own.rule == rule and own.proposal == PROPOSALS[rule] and own.commands == ()
    # Its working point is ours to choose: the file is judged here.
    keys = [key for key in flatten(PARAMS.model_dump()) if "." in key and key != "evaluate.working_point"]
    assert not [key for key in keys if key in own.finding + own.proposal]
    assert "python -m" not in own.finding + own.proposal and "dvc" not in own.proposal


def test_every_rule_on_errors_has_words_for_another_detector() -> None:
    assert set(PROPOSALS) == set(OF_ERRORS) and len(RULES) == len(OF_ERRORS)


@pytest.mark.parametrize(
    ("lowest", "missed", "first"),
    [(0.3, 0.1, "cut file"), (0.09, 0.1, "small objects"), (0.3, 0.01, None)],
    ids=["cut", "whole", "cut, but nothing is missed"],
)
def test_a_file_without_weak_detections_is_the_first_suspect_where_objects_are_missed(
    lowest: float, missed: float, first: str | None
) -> None:
    scores = [Detection(4, (1, 1, 9, 9), score) for score in (0.9, lowest)]
    bands = [make_band(0, 16, 0.3), make_band(16, None, 0.75)]
    found = advise_given(make_analysis(errors=make_errors(scores, gains={"missed": missed}), bands=bands), PARAMS)
    assert next((one.rule for one in found), None) == first


def test_where_nothing_fits_the_file_is_to_be_checked_first() -> None:
    analysis = make_analysis(overall={"AP": figure(0.001)}, errors=make_errors(WEAK, gains={"missed": 0.9}))
    (one,) = advise_given(analysis, PARAMS)
    assert one.rule == "nothing fits" and "not two corners" in one.proposal and "category_id" in one.proposal
    assert "pipeline.diagnose" not in given_page(analysis)


def test_the_page_has_all_of_the_judgement_and_nothing_of_a_training() -> None:
    analysis = full_analysis(classes=[make_class("cell", 0.95), make_class("virus", 0.9)])
    text = given_page(analysis)
    for part in ("What is wrong?", "Which class is taken for which?", "The worst mistakes", "AP by size of the object"):
        assert part in text
    assert "Share of right detections over their score" in text and "Labels to look at first" in text
    assert "The detections of theirs.json, evaluated on 100 images" in text
    assert "on test, which chose them itself" in text and "trained or tuned on these pictures is not known" in text
    assert "--detections theirs.json --output reports/theirs" in text
    for ours in ("dvc exp run", "Losses and AP by epoch", "<summary>Parameters", "The run", "On val the best epoch"):
        assert ours not in text
    assert "No rule asks for a change. More pictures, a larger network" in given_page(make_analysis())


def test_the_name_of_the_file_is_text() -> None:
    reader = Reader(given_page(full_analysis(), given=HOSTILE, reproduce=HOSTILE))
    assert len(reader.scripts) == 1 and "alert" not in reader.scripts[0] and reader.text.count(HOSTILE) == 2


def test_pictures_that_cannot_be_read_leave_the_page_whole_without_dead_links() -> None:
    asked: list[int] = []

    def read(image_id: int) -> Image.Image:
        asked.append(image_id)
        raise ValueError("gone")

    images = {number: f"{number}.png" for number in range(30)}
    alarms = [Detection(number, (0, 0, 9, 9), 0.9 - number / 100, kind="background") for number in images]
    errors = make_errors(alarms, [Truth(4, (10, 10, 50, 50), 1, found=False)], {"background": 0.2})
    text = given_page(full_analysis(errors=errors), names=images, read=read)
    assert "Pictures that cannot be read on this machine are left out." in text
    assert "Which class is taken for which?" in text and "nothing there" in text
    links, ids = re.findall(r'href="#([^"]+)"', text), re.findall(r'id="([^"]+)"', text)
    assert set(links) <= set(ids)
    assert len(asked) == len(set(asked)) == 8  # a store that is away is not asked for each of them
