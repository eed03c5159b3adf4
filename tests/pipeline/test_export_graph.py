"""Laws of the exported graph in PyTorch: the detections of the detector, for every kind of detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.export.check import Array, Difference, check, compare
from pipeline.export.graph import DetectionGraph, Suppress, fold_norms
from pipeline.export.suppression import class_wise_nms, suppress_with_torchvision
from retinanet.inference.postprocess import Detections
from tests.exported_detectors import VARIANTS, build_detector, draw_pictures

SIZES = [(60, 90), (33, 31), (170, 201)]
# torchvision's suppression has the same inputs for every detector.
CASES = [(name, class_wise_nms) for name in VARIANTS] + [("yhenon", suppress_with_torchvision)]


def run_of(graph: DetectionGraph) -> Callable[[Array, Array], list[Array]]:
    def run(images: Array, sizes: Array) -> list[Array]:
        with torch.no_grad():
            return [output.numpy() for output in graph(torch.from_numpy(images), torch.from_numpy(sizes))]

    return run


@pytest.mark.parametrize(("name", "suppress"), CASES)
def test_graph_detects_what_the_detector_does(name: str, suppress: Suppress) -> None:
    detector = build_detector(name)
    difference = check(run_of(DetectionGraph(detector, suppress)), detector, draw_pictures(SIZES))
    assert difference.is_small, difference
    assert difference.pictures == 9 and difference.detections > 90


def test_what_lies_beside_an_image_changes_nothing() -> None:
    detector = build_detector("group_norm")
    run, (picture,) = run_of(DetectionGraph(detector, class_wise_nms)), draw_pictures([(64, 70)])
    outputs = []
    for beside in (0, 255):
        images = np.full((1, 64, 90, 3), beside, dtype=np.uint8)
        images[0, :, :70] = picture.permute(1, 2, 0).numpy()
        outputs.append(run(images, np.array([[64, 70]])))
    assert all(np.array_equal(*pair) for pair in zip(*outputs, strict=True))


def test_outputs_after_the_last_detection_are_empty() -> None:
    detector = build_detector("few")
    (picture,) = draw_pictures([(32, 32)])
    boxes, scores, labels, counts = run_of(DetectionGraph(detector, class_wise_nms))(
        picture.permute(1, 2, 0).numpy()[None], np.array([[32, 32]])
    )
    count = counts[0]
    assert boxes.shape == (1, 35, 4) and 0 < count < 35  # 7 candidates on each of 5 levels
    assert (scores[0, :count] > 0).all() and (np.diff(scores[0]) <= 0).all()
    assert not boxes[0, count:].any() and not scores[0, count:].any() and (labels[0, count:] == -1).all()


def test_folded_network_gives_the_same_maps() -> None:
    for name in ("torchvision", "batch_norm"):
        network, images = build_detector(name).model, torch.rand(1, 3, 64, 96)
        folded = fold_norms(network)
        assert not any("BatchNorm" in type(module).__name__ for module in folded.backbone.modules())
        with torch.no_grad():
            for maps, others in zip(network(images), folded(images), strict=True):
                torch.testing.assert_close(maps, others, rtol=1e-4, atol=1e-4)


def test_suppression_is_within_image_and_class() -> None:
    # Boxes 0 and 1 overlap by 0.8: of one class, only the better one stays; box 2 lies apart.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 2, 10, 10], [50, 50, 60, 60]]).repeat(2, 1, 1)
    scores = torch.zeros(2, 2, 3)
    scores[0, 0] = torch.tensor([0.6, 0.9, 0.5])  # image 0: all of class 0
    scores[1, 0, 0], scores[1, 1, 1] = 0.6, 0.9  # image 1: of two classes, and no box 2
    expected = {(0, 0, 1), (0, 0, 2), (1, 0, 0), (1, 1, 1)}
    for suppress in (class_wise_nms, suppress_with_torchvision):
        found: Tensor = suppress(boxes, scores, 100, 0.5)
        assert {tuple(row) for row in found.tolist()} == expected
    assert len(class_wise_nms(boxes, scores, 1, 0.5)) == 3


# ---- the comparison --------------------------------------------------------------------------------------------------


def found_at(scores: list[float], *, moved: float = 0.0, labels: list[int] | None = None) -> Detections:
    boxes = torch.tensor([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(len(scores))]).reshape(-1, 4)
    return Detections(boxes + moved, torch.tensor(scores), torch.tensor(labels or [0] * len(scores)))


def difference(one: Detections, other: Detections) -> Difference:
    return compare(one, other, build_detector("group_norm").postprocess)


def test_equal_detections_in_another_order_do_not_differ() -> None:
    one = found_at([0.9, 0.9, 0.3])
    swapped = Detections(*(field[[1, 0, 2]] for field in one))
    assert difference(one, swapped) == Difference(1, 3, 0.0, 0.0, 0)


def test_differences_are_measured() -> None:
    one = found_at([0.9, 0.5])
    moved = difference(one, found_at([0.9, 0.5], moved=0.5))
    assert moved.box_px == pytest.approx(0.5) and not moved.is_small
    lower = difference(one, found_at([0.9, 0.49995]))
    assert lower.score == pytest.approx(5e-5, rel=0.01) and not lower.is_small
    assert difference(one, found_at([0.9])).missing == 1  # left out
    assert difference(found_at([0.9]), one).missing == 1  # too many
    assert difference(one, found_at([0.9, 0.5], labels=[0, 1])).missing == 2  # of another class: both sides miss one
    assert difference(found_at([]), found_at([])) == Difference(1, 0, 0.0, 0.0, 0)


def test_detection_at_the_threshold_may_be_on_one_side_only() -> None:
    assert difference(found_at([0.9, 0.050001]), found_at([0.9])).is_small
    assert not difference(found_at([0.9, 0.051]), found_at([0.9])).is_small


def test_end_of_calibrated_scores_is_the_calibrated_threshold() -> None:
    post = build_detector("sharper").postprocess  # 0.05, of odds 1 / 19, becomes 1 / (1 + 19^(1 / 0.6)) = 0.00734
    assert compare(found_at([0.9, 0.00734]), found_at([0.9]), post).is_small
    assert not compare(found_at([0.9, 0.00740]), found_at([0.9]), post).is_small
