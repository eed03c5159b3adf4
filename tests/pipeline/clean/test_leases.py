"""Laws of clean and leases: a run is left alone while its driver may live, wherever that is."""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.clean import listing
from pipeline.runs import lease
from pipeline.runs.identity import lock_run
from pipeline.runs.lease import LeaseFile, Owner, identity_of
from tests.stored_runs import RUNS, add_run, clean

SILENT_S = 3 * 3600


def add_lease(storage: str, name: str, *, silent_s: float = 0.0, lock: Path | None = None) -> LeaseFile:
    """The lease of a driver elsewhere, or of one that held a lock of this machine; not renewed for so long."""
    left = LeaseFile(storage, name)
    lock_of_driver = "elsewhere" if lock is None else identity_of(lock)
    left.create(json.dumps(asdict(Owner("head", 7, "Monday", lock_of_driver)) | {"beats": 1}).encode())
    os.utime(left.path, (time.time() - silent_s,) * 2)
    return left


@pytest.fixture
def quick_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL_S", 0.2)
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_CHECKS", 0.05)
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)


@pytest.mark.parametrize(
    ("silent_s", "words"), [(0, "in training"), (600, "in training"), (SILENT_S, "lease not renewed for 3 h 00 min")]
)
def test_lease_counts_until_it_was_not_renewed_for_ten_times_its_time(silent_s: float, words: str, here: Path) -> None:
    add_run(here / "runs", RUNS[1])
    add_lease(f"{here}/runs", RUNS[1], silent_s=silent_s)
    entry = listing.list_entries(f"{here}/runs", {}, unfinished=False)[0]
    assert (entry.why, entry.action) == ([words], listing.KEEP if words == "in training" else listing.REMOVE)


def test_run_that_begins_after_it_was_listed_is_left_as_it_is(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(here / "runs", RUNS[1])
    entries = listing.list_entries(f"{here}/runs", {}, unfinished=False)
    monkeypatch.setattr("pipeline.clean.run.list_entries", lambda *arguments, **options: entries)
    with lock_run(here / "runs/locks", RUNS[1]):
        assert clean(here) == {RUNS[1]}
    assert f"warning: {RUNS[1]} is in training now; it was not removed" in capsys.readouterr().out
    assert clean(here) == set()


def test_lease_of_a_driver_of_this_machine_ends_with_its_lock(here: Path) -> None:
    add_run(here / "runs", RUNS[1])
    with lock_run(here / "runs/locks", RUNS[1]) as lock:
        add_lease(f"{here}/runs", RUNS[1], lock=lock)
        assert listing.list_entries(f"{here}/runs", {}, unfinished=False)[0].why == ["in training"]
    entry = listing.list_entries(f"{here}/runs", {}, unfinished=False)[0]
    assert (entry.why, entry.action) == (["its driver on this machine has ended"], listing.REMOVE)


@pytest.mark.usefixtures("quick_takeover")
def test_lease_that_was_left_behind_is_taken_over_and_goes_with_its_run(here: Path) -> None:
    add_run(here / "runs", RUNS[1])
    left = add_lease(f"{here}/runs", RUNS[1], silent_s=SILENT_S)
    assert clean(here) == {"leases"}
    assert left.read() is None


@pytest.mark.usefixtures("quick_takeover")
def test_lease_that_is_renewed_after_all_keeps_its_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The storage's clock is hours behind this machine's."""
    add_run(here / "runs", RUNS[1])
    left = add_lease(f"{here}/runs", RUNS[1], silent_s=SILENT_S)
    content, beats = json.loads(left.read() or b""), itertools.count(2)
    monkeypatch.setattr(LeaseFile, "read", lambda self: json.dumps(content | {"beats": next(beats)}).encode())
    assert clean(here) == {RUNS[1], "leases"}
    assert f"run {RUNS[1]} is held by process 7 on head since Monday, which renews its lease" in capsys.readouterr().out
