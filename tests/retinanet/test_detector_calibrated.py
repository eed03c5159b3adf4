"""Laws of a detector that calibrates: the same boxes in the same order, other scores, in every way of detecting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retinanet.inference.detector import Detector
from retinanet.inference.detector_file import save_detector
from retinanet.inference.postprocess import Detections
from retinanet.inference.temperature import calibrate_scores, raw_threshold
from tests.exported_detectors import build_detector, draw_pictures

TILES = {"size": [40, 48], "overlap": 0.3, "min_visible": 0.1}
PICTURES = [picture.permute(1, 2, 0).numpy() for picture in draw_pictures([(60, 90), (75, 40)])]


def detector_of(name: str, tiles: dict[str, Any] | None, temperature: float | None) -> Detector:
    plain = build_detector(name)
    transforms = plain.description["transforms"] | {"tiles": tiles}
    stored = {"working_point": {"temperature": temperature}}
    return Detector(plain.model, plain.description | {"transforms": transforms} | stored)


def calibrating(detector: Detector, **values: Any) -> Detector:
    other = Detector(detector.model, detector.description)
    own = detector.description["postprocess"]
    other.postprocess = other.build_postprocess(**own | {"calibrate": True} | values)
    return other


def assert_calibrated(raw: Detections, found: Detections, temperature: float) -> None:
    assert len(raw.scores) > 5
    assert torch.equal(found.boxes, raw.boxes) and torch.equal(found.labels, raw.labels)
    assert torch.equal(found.scores, calibrate_scores(raw.scores, temperature))
    assert found.scores.dtype == torch.float32


# At 1/16 scores above 0.75 are 1 in float32, so most are equal.
@pytest.mark.parametrize("temperature", [1 / 16, 0.6, 3.0])
@pytest.mark.parametrize("tiles", [None, TILES])
@pytest.mark.parametrize("name", ["group_norm", "softmax", "yhenon"])
def test_boxes_classes_and_order_stay(name: str, tiles: dict[str, Any] | None, temperature: float) -> None:
    detector = detector_of(name, tiles, temperature)
    for raw, found in zip(detector(PICTURES), calibrating(detector)(PICTURES), strict=True):
        assert_calibrated(raw, found, temperature)


def test_detection_of_a_service_is_calibrated_too() -> None:
    detector = detector_of("group_norm", None, 0.6)
    other = calibrating(detector)
    prepared = [detector.prepare(torch.from_numpy(picture).permute(2, 0, 1)) for picture in PICTURES]
    for raw, found in zip(detector.detect(prepared), other.detect(prepared), strict=True):
        assert_calibrated(raw, found, 0.6)


def test_threshold_of_a_call_is_one_of_returned_scores_that_of_postprocess_of_raw_ones() -> None:
    detector = detector_of("group_norm", None, 0.5)
    (raw,) = detector(PICTURES[:1])
    (found,) = calibrating(detector, score_threshold=0.4)(PICTURES[:1])
    assert len(found.scores) == (raw.scores > 0.4).sum() > 0
    (above,) = calibrating(detector)(PICTURES[:1], score_threshold=0.6)
    # sigmoid(2 x) > 0.6 where the odds are above sqrt(1.5), a score of 0.5505.
    assert len(above.scores) == (raw.scores > 1.5**0.5 / (1 + 1.5**0.5)).sum() > 0
    (same,) = calibrating(detector, score_threshold=raw_threshold(0.6, 0.5))(PICTURES[:1], score_threshold=0.6)
    assert torch.equal(same.scores, above.scores)


def test_temperature_goes_through_the_file(tmp_path: Path) -> None:
    detector = detector_of("group_norm", None, 0.7)
    path = tmp_path / "model.pt"
    save_detector(path, detector.model.state_dict(), detector.description)
    loaded = Detector.load(path)
    assert loaded.postprocess.temperature is None  # who loads it decides
    for raw, found in zip(loaded(PICTURES), calibrating(loaded)(PICTURES), strict=True):
        assert_calibrated(raw, found, 0.7)


def test_detector_without_a_temperature_refuses_to_calibrate() -> None:
    for stored, words in (({}, "imported or trained by an older"), ({"temperature": None}, "fewer than 10 right")):
        detector = build_detector("group_norm")
        detector.description["working_point"] = stored
        with pytest.raises(ValueError, match=words):
            detector.build_postprocess(calibrate=True)
        assert detector.build_postprocess(calibrate=False).temperature is None


def test_no_detections_stay_none() -> None:
    detector = calibrating(detector_of("group_norm", None, 0.7), score_threshold=1.0)
    (found,) = detector([np.zeros((40, 40, 3), dtype=np.uint8)])
    assert len(found.scores) == 0
