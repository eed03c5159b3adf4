"""Laws of the edge of a range, and of the range beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.sweep.widening import edge_of, widened
from tests.pipeline.sweep.made_up_sweep import PARAMS

BASE = {name: value for name, value in PARAMS.items() if name != "sweep"}


@pytest.mark.parametrize(
    ("entry", "value", "edge"),
    [
        ({"uniform": [0.0, 4.0]}, 3.8, "high"),  # 95 % of the range
        ({"uniform": [0.0, 4.0]}, 3.79, None),
        ({"uniform": [0.0, 4.0]}, 0.2, "low"),
        ({"uniform": [0.0, 4.0]}, 9.0, "high"),  # a point outside of the space
        ({"uniform": [0.5, 4.0]}, 0.1, "low"),
        ({"loguniform": [0.001, 0.1]}, 0.0012, "low"),  # log(1.2) / log(100) = 4 %
        ({"loguniform": [0.001, 0.1]}, 0.0055, None),  # 37 %; of the range itself it would be 4.5 %
        ({"loguniform": [0.001, 0.1]}, 0.09, "high"),  # 98 %; of the range itself it would be 90 %
        ({"quniform": [0.4, 0.7, 0.1]}, 0.7, "high"),
        ({"quniform": [0.4, 0.7, 0.1]}, 0.6, None),
        ({"choice": [0.3, 0.1, 0.2]}, 0.1, "low"),
        ({"choice": [0.3, 0.1, 0.2]}, 0.2, None),
        ({"choice": [0.1, 0.2]}, 0.2, None),  # of two values each is an end
        ({"choice": ["giou", "l1", "smooth_l1"]}, "giou", None),
        ({"choice": [[1.0], [2.0], [3.0]]}, [1.0], None),
        ({"choice": [True, False, True]}, True, None),
    ],
)
def test_a_value_near_the_end_of_its_range_lies_on_the_edge(entry: Any, value: Any, edge: str | None) -> None:
    assert edge_of(entry, value) == edge


@pytest.mark.parametrize(
    ("name", "entry", "value", "expected"),
    [
        ("loss.gamma", {"uniform": [0.0, 4.0]}, 4.0, {"uniform": [0.0, 6.0]}),  # half of the range beyond
        ("loss.alpha", {"uniform": [0.1, 0.9]}, 0.9, {"uniform": [0.1, 0.98]}),  # 1.3 and 1.1 are no shares
        ("loss.gamma", {"uniform": [0.0, 4.0]}, 0.0, None),  # below 0 is no gamma
        ("loss.gamma", {"uniform": [0.0, 4.0]}, 2.0, None),
        ("optim.lr", {"loguniform": [0.001, 0.1]}, 0.1, {"loguniform": [0.001, 1.0]}),  # 0.1 * sqrt(100)
        # Half of the range is two steps.
        ("matcher.foreground_iou", {"quniform": [0.3, 0.7, 0.1]}, 0.7, {"quniform": [0.3, 0.9, 0.1]}),
        ("loss.gamma", {"choice": [1.0, 2.0, 3.0]}, 3.0, {"choice": [1.0, 2.0, 3.0, 4.0]}),
        ("optim.lr", {"grid": [0.001, 0.01, 0.1]}, 0.001, {"grid": [0.0001, 0.001, 0.01, 0.1]}),
        ("model.head_depth", {"choice": [2, 3, 4]}, 4, {"choice": [2, 3, 4, 5]}),
    ],
)
def test_the_range_goes_on_beyond_the_edge_as_far_as_values_are_valid(
    name: str, entry: Any, value: Any, expected: Any
) -> None:
    assert widened(BASE, name, entry, value) == expected


def test_parameters_of_another_version_are_not_widened() -> None:
    assert widened({"loss": {"gamma": 1.0}}, "loss.gamma", {"uniform": [0.0, 4.0]}, 4.0) is None
