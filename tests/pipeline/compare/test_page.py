"""Laws of reports/compare.html: one file without the network, the figures of the comparison, names that are text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.compare.__main__ import main
from pipeline.compare.page import SideBySide, build_page, marks_of
from pipeline.compare.run import PAGE
from retinanet.data.splits import Split
from retinanet.evaluation.bootstrap import Difference
from tests.judged_world import Row, as_row, exact_results, random_results

Leave = Callable[..., None]
HOSTILE = '"><script>alert(1)</script>'
METRICS = {
    "AP": Difference(0.5, 0.61, 0.11, 0.05, 0.17, 0.99, 0.01, 100),
    f"per_class.{HOSTILE}.AP": Difference(None, None, None, None, None, None, None, 0),
    "per_class.$x_{.AP": Difference(0.5, 0.4, -0.1, -0.2, -0.01, 0.0, 1.0, 100),
}


def test_page_holds_the_figures_and_names_as_text() -> None:
    facts: dict[str, Any] = {"runs": ["run a", HOSTILE], "facts": "test", "notes": ["<b>"], "changes": "<i>: 1 -> 2"}
    text = build_page(metrics=METRICS, pictures=None, **facts)
    assert "B is better (AP +0.110, 95 % +0.050 to +0.170)" in text
    rows = re.findall(r'scope="row">([^<]*)</th><td class="number">([^<]*)<.*?<td class="number">([^<]*)<', text)
    assert [row[1:] for row in rows] == [("0.500", "0.610"), ("-", "-"), ("0.500", "0.400")]
    assert text.count("<script") == 1 and "&lt;script&gt;alert(1)" in text and "<b>" not in text and "<i>" not in text
    assert "://" not in re.sub(r'"data:[^"]*"', "", text) and "The pictures cannot be read here." in text


def test_detections_of_each_run_are_judged_at_its_threshold() -> None:
    """A finds the first of two objects, with its second detection below the threshold; B finds both and errs once."""
    boxes = [[10.0, 10, 20, 20], [50.0, 50, 20, 20]]
    truth: dict[str, Any] = {
        "info": {"root": "", "split": "test"},
        "images": [{"id": 5, "file_name": "a.png", "width": 99, "height": 99}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": 3, "bbox": box, "area": 400.0} for n, box in enumerate(boxes)
        ],
    }
    a = [as_row(5, 3, boxes[0], 0.9), as_row(5, 3, boxes[1], 0.3)]
    b = [as_row(5, 3, boxes[0], 0.4), as_row(5, 3, boxes[1], 0.35), as_row(5, 3, [80, 80, 9, 9], 0.6)]
    pictures = SideBySide(Split(truth), [3], [], [a, b], [0.5, 0.2])
    kinds = [[mark.kind for mark in marks_of(pictures, 0, run)] for run in (0, 1)]
    assert kinds == [["truth", "missed", "right"], ["truth", "truth", "wrong", "right", "right"]]


@pytest.mark.usefixtures("workspace")
def test_command_writes_the_page_with_pictures_of_both_runs(
    repository: Callable[..., str], leave: Leave, truth: dict[str, Any]
) -> None:
    poor: list[Row] = random_results(truth, 5, jitter=0.15, found=0.6)
    leave(poor)
    repository("git", "add", "-A")
    repository("git", "commit", "-q", "-m", "poor")
    leave(exact_results(truth), gamma=1.5)
    main(["main", "workspace", "--resamples", "20"])
    text = Path(PAGE).read_text()
    assert "loss.gamma: 2.0 -&gt; 1.5" in text
    cards = re.findall(r'data-caption="([AB]): F1 ([\d.]+), ([^"]+)"', text)
    assert len(cards) == 48 and [card[0] for card in cards] == ["A", "B"] * 24
    assert all(a[2] == b[2] and b[1] == "1.00" for a, b in zip(cards[::2], cards[1::2], strict=True))
    assert PAGE.stat().st_size < 10_000_000
