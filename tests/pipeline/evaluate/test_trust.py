"""Laws of what the report says of its own figures: nothing of scores that there are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.evaluate.trust import trust_sentences
from retinanet.evaluation.analysis import Calibration, CalibrationBin, Figure
from tests.made_up_analysis import figure, make_analysis, make_class


def on_calibration(*bins: tuple[float, float, float], **parts: Any) -> str:
    """The sentences, given the lower edge, mean score and precision of bins of ten detections each."""
    made = [CalibrationBin(low, low + 0.1, 10, score, precision) for low, score, precision in bins]
    calibration = Calibration(figure(0.1), made, None, Figure(None), [])
    return " ".join(trust_sentences(make_analysis(calibration=calibration, **parts), [], split="test"))


@pytest.mark.parametrize(
    ("bins", "sentence"),
    [
        # (0.9 + 0.5 - 0.75 - 0.35) / 2 = 0.15
        (
            [(0.0, 0.05, 0.9), (0.7, 0.75, 0.9), (0.3, 0.35, 0.5)],
            "Scores over 0.3 are 0.15 lower than that (under-conf",
        ),
        ([(0.0, 0.05, 0.9), (0.7, 0.75, 0.5)], "Scores over 0.3 are 0.25 higher than that (over-confident)"),
        ([(0.7, 0.75, 0.752)], "Scores over 0.3 are what that share is on average."),
        ([(0.0, 0.05, 0.0), (0.1, 0.15, 0.1)], ""),
    ],
)
def test_scores_in_use_are_compared_with_what_is_right(bins: list[Any], sentence: str) -> None:
    text = on_calibration(*bins)
    assert "by 0.100 on average (expected calibration error)." in text
    assert sentence in text and text.count("Scores over") == bool(sentence)


def test_without_objects_scores_are_not_judged() -> None:
    text = on_calibration((0.7, 0.75, 0.0), classes=[make_class("cell", None)], overall={"AP": Figure(None)})
    assert "score" not in text.lower()


def test_one_image_is_one() -> None:
    analysis = replace(make_analysis(), num_images=1)
    assert "The split has 1 image only, so all figures are rough." in trust_sentences(analysis, [], split="test")


def test_on_val_the_figures_of_test_are_the_better_ones() -> None:
    assert trust_sentences(make_analysis(), [], split="val")[-1].endswith("a little too good; those of test are not.")
