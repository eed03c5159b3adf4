"""Laws of metrics whose names hold class names, of which there may be many and odd ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tracking.records import MAX_NAME, as_metrics, metric_names

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ODD = ["red light", "a/b", "a//b", "a,b", "a;b", "a_b", "K\u00e4fer", '"', "..", "x" * 300, "x" * 301, "per_class.a.AP"]


def keys_of(names: list[str]) -> list[str]:
    return [f"per_class.{name}.AP" for name in names]


def test_names_that_mlflow_writes_alike_are_numbered_in_their_order() -> None:
    assert metric_names(["AP", "a,b", "a;b", "a_b", "a,b_2"]) == {
        "AP": "AP",
        "a,b": "a_b",
        "a;b": "a_b_2",
        "a_b": "a_b_3",
        "a,b_2": "a_b_2_2",
    }


@given(st.lists(st.text(max_size=260), unique=True))
def test_every_name_is_its_own_and_short_enough(names: list[str]) -> None:
    found = metric_names(keys_of(names))
    assert list(found) == keys_of(names)
    assert len(set(found.values())) == len(names)
    assert all(0 < len(name) <= MAX_NAME for name in found.values())


def test_class_without_a_value_keeps_its_number_for_the_epochs_that_have_one() -> None:
    first, second = (
        {metric.key: metric.value for metric in as_metrics({"a,b": value, "a;b": 0.5}, 1)} for value in (None, 0.25)
    )
    assert first == {"a_b_2": 0.5} and second == {"a_b": 0.25, "a_b_2": 0.5}


def test_odd_class_names_have_a_curve_each(tracker: Any) -> None:
    run = tracker.begin()
    rows = [
        {"epoch": epoch, "step": epoch} | {key: epoch / 4 + place / 100 for place, key in enumerate(keys_of(ODD))}
        for epoch in (1, 2)
    ]
    run.log_history(rows)
    names = metric_names(rows[0])
    for place, key in enumerate(keys_of(ODD)):
        assert tracker.curve(run, names[key]) == [(1, 0.25 + place / 100), (2, 0.5 + place / 100)]


def test_row_of_more_metrics_than_mlflow_takes_at_once_counts_as_sent_when_all_have_arrived(
    tracker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    send, calls = SqlAlchemyStore.log_batch, []

    def fail_once(store: Any, *arguments: Any, **options: Any) -> None:
        calls.append(options)
        if len(calls) == 2:
            raise ConnectionError("gone")
        send(store, *arguments, **options)

    run = tracker.begin()
    monkeypatch.setattr(SqlAlchemyStore, "log_batch", fail_once)
    row = {"epoch": 1, "step": 10} | dict.fromkeys(keys_of([f"class {k}" for k in range(1200)]), 0.5)
    run.log_history([row])
    assert tracker.curve(run, "step") == []
    run._outbox._pause_until = 0.0  # the pause after a failure is over
    run.log_history([row])
    assert tracker.curve(run, "step") == [(1, 10)]
    assert tracker.curve(run, "per_class.class 1199.AP") == [(1, 0.5)]
