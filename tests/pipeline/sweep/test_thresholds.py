"""Thresholds searched on stored candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.params.sweep import Thresholds
from pipeline.sweep.thresholds import Candidates, find_candidates, search_thresholds, suppress
from retinanet.anchors import build_grid
from retinanet.coco_eval import evaluate_detections
from retinanet.dataset import EvaluationBatches
from retinanet.detector import Detector, build_network
from retinanet.detector_file import describe_detector
from retinanet.splits import Split
from tests.small_world import SmallWorld

POSTPROCESS = {"candidates_per_level": 1000, "max_detections": 20, "min_size": 0.0}
MODEL = {"backbone": "resnet18", "norm": "group", "frozen_stages": 0, "fpn_channels": 8, "p6_from": "c5"}
MODEL |= {"head_channels": 8, "head_depth": 1, "head_norm": "group", "prior": 0.01, "weights": None}
MODEL |= {"box_means": [0.0] * 4, "box_stds": [1.0] * 4}
TRANSFORMS = {"short_side": 64, "long_side": 96}


@pytest.fixture
def detector(small_world: SmallWorld) -> Detector:
    """It finds something everywhere, with scores that vary."""
    description = describe_detector(
        model=MODEL,
        loss={"class_loss": "sigmoid_focal"},
        transforms={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], **TRANSFORMS},
        anchors=build_grid(base_scale=2.0).to_dict(),
        categories=small_world.content()["categories"],
        run={"digest": "abc"},
    )
    torch.manual_seed(0)
    network = build_network(description)
    torch.nn.init.normal_(network.class_head.output.weight, std=0.3)
    torch.nn.init.constant_(network.class_head.output.bias, -1.0)
    return Detector(network, description)


@pytest.fixture
def split(small_world: SmallWorld) -> Split:
    return Split(small_world.content(), root=str(small_world.root))


@pytest.mark.parametrize(("nms_iou", "score_threshold"), [(0.5, 0.05), (0.3, 0.2), (0.7, 0.1)])
def test_candidates_give_what_the_postprocess_gives(
    detector: Detector, split: Split, small_world: SmallWorld, nms_iou: float, score_threshold: float
) -> None:
    candidates = find_candidates(detector, split, postprocess=POSTPROCESS, lowest=0.01)
    found = dict(suppress(candidates, small_world.content(), nms_iou=nms_iou, score_threshold=score_threshold, most=20))
    changed = {**POSTPROCESS, "nms_iou": nms_iou, "score_threshold": score_threshold}
    detector.postprocess = detector.build_postprocess(**changed)
    batches = EvaluationBatches(split, detector.transforms)
    expected = dict(detector.predict(batches[i] for i in range(len(batches))))
    assert sum(len(detections.scores) for detections in expected.values()) > 20
    for image_id, detections in expected.items():
        boxes, scores, labels = found[image_id]
        assert torch.allclose(torch.from_numpy(boxes), detections.boxes, atol=1e-3)
        assert np.array_equal(scores, detections.scores.numpy())
        assert np.array_equal(labels, detections.labels.numpy())


def test_the_search_reports_the_ap_of_each_pair_and_begins_with_the_best(
    detector: Detector, split: Split, small_world: SmallWorld
) -> None:
    candidates = find_candidates(detector, split, postprocess=POSTPROCESS, lowest=0.05)
    thresholds = Thresholds(nms_iou=[0.3, 0.5], score_threshold=[0.05, 0.3])
    rows = search_thresholds(candidates, small_world.content(), thresholds, max_detections=100)
    assert len(rows) == 4
    assert [row["AP"] for row in rows] == sorted((row["AP"] for row in rows), reverse=True)
    for row in rows:
        detections = dict(
            suppress(
                candidates,
                small_world.content(),
                nms_iou=row["nms_iou"],
                score_threshold=row["score_threshold"],
                most=100,
            )
        )
        assert row["AP"] == evaluate_detections(small_world.content(), detections).metrics["AP"]


def test_packing_keeps_the_candidates(detector: Detector, split: Split) -> None:
    candidates = find_candidates(detector, split, postprocess=POSTPROCESS, lowest=0.01)
    for kept, original in zip(Candidates.unpack(candidates.pack()), candidates, strict=True):
        assert np.array_equal(kept, original)
