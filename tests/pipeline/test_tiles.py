"""The whole way of transforms.tiles through a training: epochs of tiles, AP of pictures, the detector's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runs.identity import BEST
from retinanet.data.splits import load_split
from retinanet.data.tiles import Tiles
from retinanet.inference.detector import Detector
from tests.settings import change
from tests.training import train_in_process


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_training_with_tiles() -> None:
    tiles = {"size": [64, 40], "overlap": 0.2, "min_visible": 0.25}  # 64 x 64 px: two tiles
    change("params.yaml", transforms__tiles=tiles, train__epochs=1)
    trained = train_in_process(Path("trained"))
    (row,) = trained.history
    assert row["step"] == 6  # 24 pictures of 2 tiles in batches of 8
    assert row["AP"] is not None and row["val_loss"] > 0
    detector = Detector.load(Path("trained") / BEST)
    assert detector.transforms.tiles == Tiles([64, 40], overlap=0.2, min_visible=0.25)
    split = load_split("data/prepared/val.json")
    found = detector([split.picture(index).permute(1, 2, 0).numpy() for index in range(3)])
    assert max(detections.boxes[:, 2].max() for detections in found) > 40
