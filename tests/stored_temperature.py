"""A project whose detector has a working point and a temperature, as a training stores them."""

from __future__ import annotations

from pathlib import Path

import yaml

from retinanet.inference.detector_file import load_detector, save_detector

MODEL = Path("models/model.pt")


def store(temperature: float | None, thresholds: list[float]) -> None:
    """Write candidates of these falling thresholds, of which f1 chooses the first, and a temperature into the file."""
    weights, description = load_detector(MODEL)
    counts = {"num_truths": 9, "true_positives": [5, 6], "false_positives": [1, 9], "thresholds": thresholds}
    points = {"overall": counts, "classes": [counts] * len(description["categories"]), "temperature": temperature}
    save_detector(MODEL, weights, description | {"working_point": points})


def set_calibrate(*, on: bool) -> None:
    """Set postprocess.calibrate in params.yaml."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["postprocess"]["calibrate"] = on
    Path("params.yaml").write_text(yaml.safe_dump(params))
