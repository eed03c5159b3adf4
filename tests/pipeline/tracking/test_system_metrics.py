"""Laws of the samples of the machine: they never trouble a run, and can be switched off."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.tracking.store import find_store
from pipeline.tracking.system_metrics import SWITCH, SystemMetrics

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_run_without_id_is_sampled_later(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    run = tracker.begin()
    metrics = SystemMetrics(find_store().uri)
    metrics.keep(None)
    assert not metrics.is_alive
    metrics.keep(run.run_id)
    assert metrics.is_alive
    metrics.finish()
    assert not metrics.is_alive


@pytest.mark.parametrize("value", ["false", "False", "0"])
def test_sampling_can_be_switched_off(tracker: Any, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(SWITCH, value)
    metrics = SystemMetrics(find_store().uri)
    metrics.keep(tracker.begin().run_id)
    assert not metrics.is_alive


def test_end_of_a_run_ends_its_samples(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    run = tracker.begin()
    run.log_system_metrics()
    run.log_system_metrics()  # once is enough
    assert run._system_metrics.is_alive
    run.finish()
    assert not run._system_metrics.is_alive


def test_sampler_that_cannot_begin_or_stops_troubles_nobody(
    tracker: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    for uri in ("http://127.0.0.1:9", "nonsense://"):
        metrics = SystemMetrics(uri)
        metrics.keep(tracker.begin().run_id)
        metrics.finish()
    assert capsys.readouterr().err == ""
