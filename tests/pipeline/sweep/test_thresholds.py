"""Thresholds searched on what a detector finds before suppression."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from pipeline.params.detector import Postprocess
from pipeline.params.sweep import Thresholds
from pipeline.sweep.thresholds import find_candidates, search_thresholds, suppress
from retinanet.anchors.grid import build_grid
from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import Split
from retinanet.evaluation.coco_eval import ImageDetections, evaluate_detections
from retinanet.inference.detector import Detector, build_network
from retinanet.inference.detector_file import describe_detector
from tests.small_world import SmallWorld

POSTPROCESS: dict[str, Any] = {"candidates_per_level": 1000, "max_detections": 20, "min_size": 0.0}
SECTION = Postprocess(score_threshold=0.05, nms_iou=0.5, calibrate=True, **POSTPROCESS)  # the search is on raw scores
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
    detector: Detector, split: Split, nms_iou: float, score_threshold: float
) -> None:
    candidates = dict(find_candidates(detector, split, postprocess=SECTION, lowest=0.01))
    changed = {**POSTPROCESS, "nms_iou": nms_iou, "score_threshold": score_threshold}
    detector.postprocess = detector.build_postprocess(**changed)
    batches = EvaluationBatches(split, detector.transforms)
    expected = dict(detector.predict(batches[i] for i in range(len(batches))))
    assert sum(len(detections.scores) for detections in expected.values()) > 20
    for image_id, detections in expected.items():
        found = candidates[image_id]
        (boxes, scores, labels), _ = suppress(found, [nms_iou], score_threshold=score_threshold, most=20)
        assert torch.allclose(torch.from_numpy(boxes), detections.boxes, atol=1e-3)
        assert np.array_equal(scores, detections.scores.numpy())
        assert np.array_equal(labels, detections.labels.numpy())


def random_candidates(
    num_images: int, seed: int, *, most: int = 30
) -> tuple[dict[str, Any], dict[int, ImageDetections]]:
    """Truths, some of them crowds, and candidates with many equal scores; the last image has none."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {"categories": [{"id": i, "name": f"c{i}"} for i in (3, 1, 2)], "annotations": []}
    truth["images"] = [{"id": int(image_id)} for image_id in rng.permutation(num_images) + 1]
    candidates = {}
    for image_id in range(1, num_images + 1):
        corners = rng.uniform(0, 80, (3, 2))
        for corner in corners.tolist():
            row = {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": int(rng.integers(1, 4))}
            row |= {"bbox": [*corner, 20.0, 20.0], "area": 400.0, "iscrowd": int(rng.random() < 0.1)}
            truth["annotations"].append(row)
        count = 0 if image_id == num_images else most
        low = corners[rng.integers(0, 3, count)] + rng.normal(0, 3, (count, 2))
        scores = np.sort(rng.integers(0, 20, count).astype(np.float32) / 20)[::-1].copy()
        boxes = np.concatenate([low, low + 20], axis=1).astype(np.float32)
        candidates[image_id] = boxes, scores, rng.integers(0, 3, count)
    return truth, candidates


def suppress_by_torchvision(
    candidates: ImageDetections, *, nms_iou: float, score_threshold: float, most: int | None
) -> ImageDetections:
    boxes, scores, labels = (field[candidates[1] > score_threshold] for field in candidates)
    doubled = torch.from_numpy(boxes).double(), torch.from_numpy(scores).double(), torch.from_numpy(labels)
    best = batched_nms(*doubled, nms_iou)[:most].numpy()
    return boxes[best], scores[best], labels[best]


@pytest.mark.parametrize(
    ("count", "most"), [(0, 800), (1, 800), (1000, 800), (1001, 800), (1001, None), (1000, 10), (1001, 10), (1000, 200)]
)
def test_suppression_for_several_ious_is_that_of_torchvision(count: int, most: int | None) -> None:
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 60, (count, 2))], axis=1).astype(np.float32)
    scores = rng.integers(0, 400, count).astype(np.float32) / 400  # many are equal
    candidates = boxes, scores, rng.integers(0, 5, count)
    ious = [0.2, 0.5, 0.8]
    found, kept = suppress(candidates, ious, score_threshold=0.1, most=most)
    assert kept.any(axis=0).all()
    for nms_iou, rows in zip(ious, kept, strict=True):
        ours = [field[rows] for field in found]
        theirs = suppress_by_torchvision(candidates, nms_iou=nms_iou, score_threshold=0.1, most=most)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def search_one_by_one(
    candidates: Mapping[int, ImageDetections], truth: Mapping[str, Any], thresholds: Thresholds, most: int | None
) -> list[dict[str, float]]:
    """The definition: a pair of thresholds at a time, all of it from the candidates."""
    rows = []
    for nms_iou, score_threshold in itertools.product(thresholds.nms_iou, thresholds.score_threshold):
        kept = {
            image_id: suppress_by_torchvision(found, nms_iou=nms_iou, score_threshold=score_threshold, most=most)
            for image_id, found in candidates.items()
        }
        metrics = evaluate_detections(truth, kept).metrics
        row = {"nms_iou": nms_iou, "score_threshold": score_threshold}
        rows.append({**row, **{name: metrics[name] or 0.0 for name in ("AP", "AP50")}})
    return sorted(rows, key=lambda row: -row["AP"])


@pytest.mark.parametrize("seed", range(5))
def test_the_search_gives_the_figures_of_each_pair_to_the_last_bit_and_begins_with_the_best(seed: int) -> None:
    truth, candidates = random_candidates(12, seed)
    # 0.05, 0.1 and 0.35 are scores too: as float32 they lie a rounding away from the thresholds.
    thresholds = Thresholds(nms_iou=[0.3, 0.5, 0.7], score_threshold=[0.35, 0.05, 0.1, 0.9])
    rows = search_thresholds(candidates.items(), truth, thresholds, max_detections=10)
    assert rows == search_one_by_one(candidates, truth, thresholds, 10)
    assert rows[0]["AP"] > rows[-1]["AP"]


def test_the_search_counts_the_best_100_of_an_image_and_class_under_each_overlap_by_itself() -> None:
    truth, candidates = random_candidates(4, 0, most=900)
    thresholds = Thresholds(nms_iou=[0.6, 0.99], score_threshold=[0.05, 0.5])
    left = [suppress(found, [0.99], score_threshold=0.05, most=None)[0] for found in candidates.values()]
    assert max(np.bincount(labels, minlength=3).max() for _, _, labels in left) > 200
    rows = search_thresholds(candidates.items(), truth, thresholds, max_detections=None)
    assert rows == search_one_by_one(candidates, truth, thresholds, None)


def test_the_search_of_no_image_finds_nothing() -> None:
    truth, _ = random_candidates(2, 0)
    rows = search_thresholds([], truth, Thresholds(nms_iou=[0.5], score_threshold=[0.05]), max_detections=10)
    assert rows == [{"nms_iou": 0.5, "score_threshold": 0.05, "AP": 0.0, "AP50": 0.0}]


def test_the_search_looks_at_each_candidate_once_and_holds_those_of_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So its cost grows with the candidates, and its memory does not."""
    looked_at: list[int] = []
    alive: list[weakref.ref[Any]] = []
    most_alive = 0

    def counting(found: ImageDetections, *arguments: Any, **options: Any) -> tuple[ImageDetections, Any]:
        looked_at.append(len(found[1]))
        return suppress(found, *arguments, **options)

    def produce() -> Iterator[tuple[int, ImageDetections]]:
        nonlocal most_alive
        for image_id, (boxes, scores, labels) in random_candidates(40, 0)[1].items():
            own = boxes.copy()
            alive.append(weakref.ref(own))
            most_alive = max(most_alive, sum(each() is not None for each in alive))
            yield image_id, (own, scores, labels)
            del own

    monkeypatch.setattr("pipeline.sweep.thresholds.suppress", counting)
    thresholds = Thresholds(nms_iou=[0.3, 0.5, 0.7], score_threshold=[0.05, 0.1, 0.2])
    search_thresholds(produce(), random_candidates(40, 0)[0], thresholds, max_detections=10)
    assert looked_at == [30] * 39 + [0]
    assert most_alive <= 2  # one that is judged, and the next
