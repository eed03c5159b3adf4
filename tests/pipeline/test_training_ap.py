"""Laws of the AP on training pictures: of the detector that is stored, on a fixed choice, once at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.fit import validation as room
from pipeline.fit.config import WorkerConfig
from pipeline.fit.ending import TRAIN_AP
from pipeline.fit.loop import load_splits, train_worker
from pipeline.fit.validation import TRAIN_PICTURES, choose_pictures
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.params.sweep import Thresholds
from pipeline.runs.identity import BEST
from pipeline.storage.outs import read_json
from pipeline.worker_config import worker_config
from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import Split
from retinanet.evaluation.coco_eval import evaluate_detections
from retinanet.inference.detector import Detector
from tests.alone import alone


def content_of(num_images: int) -> dict[str, Any]:
    """A prepared file with two boxes on every image, of which one is a crowd."""
    ids = [3 * number + 1 for number in range(num_images)]
    boxes = [{"image_id": image_id, "iscrowd": crowd} for image_id in ids for crowd in (0, 1)]
    return {"images": [{"id": image_id} for image_id in ids], "annotations": boxes, "categories": [{"id": 1}]}


@pytest.mark.parametrize("num_images", [0, 1, 99, 100, 101, 5000])
def test_choice_has_at_most_a_hundred_pictures_in_the_order_of_the_file_with_all_their_boxes(num_images: int) -> None:
    content = content_of(num_images)
    chosen = choose_pictures(content)
    ids = [image["id"] for image in chosen["images"]]
    assert len(ids) == min(num_images, TRAIN_PICTURES) == len(set(ids))
    assert ids == sorted(ids) and set(ids) <= {image["id"] for image in content["images"]}
    assert [(box["image_id"], box["iscrowd"]) for box in chosen["annotations"]] == [(i, c) for i in ids for c in (0, 1)]
    assert chosen["categories"] == content["categories"]


def test_choice_is_spread_over_the_file_and_always_the_same() -> None:
    first, again = (choose_pictures(content_of(5000)) for _ in range(2))
    assert first == again
    quarters = [sum(image["id"] // 3750 == quarter for image in first["images"]) for quarter in range(4)]
    assert min(quarters) >= 15  # 25 each on average; a standard deviation is 4.3


def config_of(**changes: Any) -> WorkerConfig:
    config = worker_config(load_params(), load_runtime(), digest="d1", run=str(Path("run").resolve()))
    return replace(config, **changes)


def histories_of(config: WorkerConfig, folder: Path) -> list[list[dict[str, Any]]]:
    """Train in this process; the history at every report, and the last checkpoint in the folder."""
    folder.mkdir()
    reported = []

    def keep(metrics: dict[str, Any], write: Any) -> None:
        reported.append(metrics["history"])
        write(folder)

    threads = torch.get_num_threads()
    train_worker(config, replace(alone(), report=keep), *load_splits(config.data))
    torch.set_num_threads(threads)
    return reported


def ap_of_file(path: Path, content: dict[str, Any]) -> float | None:
    """AP of a detector's file on prepared pictures, as anyone would measure it."""
    detector = Detector.load(path)
    batches = EvaluationBatches(Split(content), detector.transforms)
    found = dict(detector.predict(batches[place] for place in range(len(batches))))
    arrays = {image_id: tuple(field.numpy() for field in one) for image_id, one in found.items()}
    return evaluate_detections(content, arrays).metrics["AP"]  # type: ignore[arg-type]


@pytest.mark.slow
def test_last_row_has_the_ap_of_the_stored_detector_on_training_pictures(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aps = iter([0.2, 0.9, 0.1])  # the second epoch is the best one, not the last
    monkeypatch.setattr(room, "evaluate", lambda config, detections: {"AP": next(aps)})
    monkeypatch.setattr(room, "TRAIN_PICTURES", 20)  # of 24
    histories = histories_of(config_of(), project / "run")
    assert [[TRAIN_AP in row for row in history] for history in histories] == [
        [False],
        [False] * 2,
        [False] * 2 + [True],
    ]
    content = choose_pictures(read_json(project / "data/prepared/train.json"))
    assert len(content["images"]) == 20
    measured = histories[-1][-1][TRAIN_AP]
    assert measured == ap_of_file(project / "run" / BEST, content) > 0


@pytest.mark.slow
def test_trial_of_a_sweep_does_not_measure_it(project: Path) -> None:
    thresholds = Thresholds(nms_iou=[0.5], score_threshold=[0.05])
    histories = histories_of(config_of(thresholds=thresholds), project / "run")
    assert len(histories) == 3 and not any(TRAIN_AP in row for row in histories[-1])
