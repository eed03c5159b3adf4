"""Laws of the file of detections."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline.reports.results import read_results, write_results
from tests.judged_world import random_results, random_truth

TRUTH = random_truth(1)


def test_rows_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rows = random_results(TRUTH, 2)
    write_results(tmp_path / "reports/detections.json.gz", rows)
    assert read_results(tmp_path / "reports/detections.json.gz") == rows


def test_same_rows_give_the_same_bytes_under_any_name_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_results(TRUTH, 2)
    write_results(tmp_path / "one.json.gz", rows)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_results(tmp_path / "other.json.gz", iter(rows))
    assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "other.json.gz").read_bytes()


def test_no_detections_are_an_empty_list(tmp_path: Path) -> None:
    write_results(tmp_path / "none.json.gz", [])
    assert read_results(tmp_path / "none.json.gz") == []


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json\.gz does not exist; run the evaluate stage"):
        read_results(tmp_path / "none.json.gz")
    whole = gzip.compress(b"[1, 2, 3]")
    for content in (b"no gzip", whole[:-4], gzip.compress(b"[1,")):
        (tmp_path / "broken.json.gz").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.json\.gz is not a gzipped COCO results file"):
            read_results(tmp_path / "broken.json.gz")
