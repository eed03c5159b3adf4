"""Laws of what export --onnx reads and measures, without onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from pipeline.export.check import Array
from pipeline.export.files import CHECKED, Request, find_pictures
from pipeline.export.quantise import Measured, Timed
from pipeline.export.run import write_files
from pipeline.storage.outs import write_json
from retinanet.inference.detector_file import save_detector
from tests.exported_detectors import build_detector


@pytest.mark.parametrize("root", ["s3://bucket/cells", "https://host/cells/", "/data/cells"])
def test_pictures_for_the_check_are_where_the_prepared_file_says(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [{"file_name": f"a/{number}.jpg"} for number in range(CHECKED + 1)]
    write_json(Path("data/prepared/test.json"), {"info": {"root": root}, "images": images})
    assert find_pictures([])[1:] == [f"{root.rstrip('/')}/a/{number}.jpg" for number in range(1, CHECKED)]


def test_pace_is_that_of_the_calls_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(images: Array, sizes: Array) -> Sequence[Array]:
        return [images, sizes]

    ticks = count(step=2.0)  # every call takes 2 s
    monkeypatch.setattr("pipeline.export.quantise.time.perf_counter", lambda: next(ticks))
    timed, nothing = Timed(run), np.zeros(0)
    paces = []
    for _ in range(3):
        timed(nothing, nothing)
        paces.append(timed.calls_per_s)
    assert paces == [None, 1 / 2, 2 / 4]
    assert str(Measured(0.25, None, 1.0, None)) == "AP 0.250  AP50 none  1.0 MB"
    assert str(Measured(0.25, 0.5, 1.0, 0.5)) == "AP 0.250  AP50 0.500  1.0 MB  0.5 images/s"


def test_file_is_exported_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIPELINE_CONF", raising=False)
    detector = build_detector("group_norm")
    save_detector(Path("model.pt"), detector.model.state_dict(), detector.description)
    exported: list[tuple[object, ...]] = []
    monkeypatch.setattr("pipeline.export.run.export_files", lambda *given, **_: exported.append(given))
    request = Request(Path("model.onnx"))
    write_files(request, None, Path("model.pt"))
    assert exported == [(Path("model.pt"), None, request)]
