"""Laws of what a comparison says."""

from __future__ import annotations

import pytest

from pipeline.compare.report import changes_text, metrics_table, note_few_images, note_undefined, verdict
from retinanet.evaluation.bootstrap import Difference

NONE = Difference(None, None, None, None, None, None, None, 0)


def difference(low: float, high: float, *, resamples: int = 1000) -> Difference:
    middle = (low + high) / 2
    return Difference(0.5, 0.5 + middle, middle, low, high, b_better=0.9, a_better=0.1, resamples=resamples)


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.01, 0.05, "B is better (AP +0.030, 95 % +0.010 to +0.050)"),
        (-0.05, -0.01, "B is worse (AP -0.030, 95 % -0.050 to -0.010)"),
        (-0.01, 0.05, "no significant difference (AP +0.020, 95 % -0.010 to +0.050)"),
        (0.0, 0.04, "no significant difference (AP +0.020, 95 % +0.000 to +0.040)"),
        (0.0, 0.0, "no significant difference (AP +0.000, 95 % +0.000 to +0.000)"),
    ],
)
def test_verdict_is_where_the_interval_leaves_0_out(low: float, high: float, sentence: str) -> None:
    assert verdict({"AP": difference(low, high)}) == sentence


def test_split_without_truths_has_no_verdict() -> None:
    assert verdict({"AP": NONE}) == "no verdict: the split has no ground truth"


def test_table_has_a_line_for_each_metric() -> None:
    lines = metrics_table({"AP": difference(0.01, 0.05), "per_class.a.dotted.name.AP": NONE}).splitlines()
    assert lines[1].split() == ["AP", "0.500", "0.530", "+0.030", "+0.010", "..", "+0.050", "90.0", "%"]
    assert lines[2].split()[0] == "a.dotted.name"
    assert lines[2].endswith("   no ground truth")


def test_resamples_without_a_class_are_counted() -> None:
    metrics = {"AP": difference(0, 1), "per_class.rare.AP": difference(0, 1, resamples=640), "per_class.none.AP": NONE}
    (sentence,) = note_undefined(metrics, 1000)
    assert sentence.startswith("per_class.rare.AP: 360 of 1000 resamples contain no ground truth for it")


def test_few_images_are_told() -> None:
    assert note_few_images(50) == []
    assert note_few_images(49)[0].startswith("only 49 images")


def test_changes_are_told_line_by_line() -> None:
    changes = {"params": {"loss.gamma": ("2.0", None)}, "data": "the same", "code": "one\ntwo", "environment": None}
    lines = ["params", "  loss.gamma: 2.0 -> absent", "data    the same", "code    one", "        two"]
    assert changes_text(changes).splitlines() == [*lines, "environment   not recorded for both runs"]
