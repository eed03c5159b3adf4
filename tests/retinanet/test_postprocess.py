"""The laws of retinanet/inference/postprocess.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from retinanet.anchors.boxes import encode_boxes
from retinanet.anchors.grid import Grid, build_grid
from retinanet.inference.postprocess import Detections, Postprocess, logit, rescale_detections
from retinanet.network.predictions import Predictions, permute_from_N_A_K, permute_to_N_A_K

Golden = Callable[[str], dict[str, Tensor]]
SIZE = (64, 96)
NEVER = -20.0  # a logit far below every threshold
ONE_ANCHOR = build_grid(scales_per_octave=1, aspect_ratios=[1.0])


def place_boxes(
    boxes: list[list[float]], logits: list[list[float]], *, grid: Grid = ONE_ANCHOR, size: tuple[int, int] = SIZE
) -> Predictions:
    """Predictions for one image: the boxes sit on the first anchors (of P3), with these logits for each class."""
    anchors = grid.anchors(size)
    deltas = torch.zeros(1, len(anchors), 4)
    scores = torch.full((1, len(anchors), len(logits[0]) if logits else 2), NEVER)
    for row, (box, row_logits) in enumerate(zip(boxes, logits, strict=True)):
        width, height = max(box[2] - box[0], 1e-30), max(box[3] - box[1], 1e-30)
        sized = torch.tensor([box[0], box[1], box[0] + width, box[1] + height])
        deltas[0, row] = encode_boxes(sized, anchors[row]).nan_to_num(neginf=-200.0)
        scores[0, row] = torch.tensor(row_logits)
    sizes = grid.map_sizes(size)
    return Predictions(permute_from_N_A_K(scores, sizes), permute_from_N_A_K(deltas, sizes))


def detect(
    predictions: Predictions, *, size: tuple[int, int] = SIZE, grid: Grid = ONE_ANCHOR, **options: Any
) -> Detections:
    channels = predictions.class_logits[0].shape[1] // grid.anchors_per_cell
    postprocess = Postprocess(grid, channels - bool(options.get("softmax")), **options)
    (found,) = postprocess(predictions, torch.tensor([size]), size)
    return found


def random_predictions(generator: torch.Generator, num_images: int, num_classes: int = 3) -> Predictions:
    sizes = build_grid().map_sizes(SIZE)
    logits = 2 * torch.randn(num_images, 1161, num_classes, generator=generator) - 4
    deltas = 0.3 * torch.randn(num_images, 1161, 4, generator=generator)
    return Predictions(permute_from_N_A_K(logits, sizes), permute_from_N_A_K(deltas, sizes))


def assert_same_detections(ours: Detections, theirs: Detections, *, atol: float = 1e-3) -> None:
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-6)
    assert_close(ours.boxes, theirs.boxes, rtol=0, atol=atol)


def test_detections_worked_by_hand() -> None:
    boxes = [[0.0, 0, 20, 20], [0, 0, 20, 19], [40, 40, 60, 50], [0, 0, 20, 20]]
    # Box 1 overlaps box 0 by .95 and is the weaker cat; box 3 is a dog at the same place: classes do not compete.
    logits = [[2.0, NEVER], [1.0, NEVER], [3.0, NEVER], [NEVER, 0.0]]
    found = detect(place_boxes(boxes, logits))
    assert found.labels.tolist() == [0, 0, 1]
    assert_close(found.scores, torch.tensor([3.0, 2.0, 0.0]).sigmoid())
    assert_close(found.boxes, torch.tensor([boxes[2], boxes[0], boxes[3]]), atol=1e-4, rtol=0)
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_one_anchor_may_be_two_classes() -> None:
    found = detect(place_boxes([[0.0, 0, 20, 20]], [[1.0, 2.0]]))
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_only_scores_above_the_threshold_are_kept(threshold: float) -> None:
    edge = logit(threshold)
    boxes = [[20.0 * i, 0, 20 * i + 10, 10] for i in range(4)]
    logits = [[edge + 1e-3], [edge - 1e-3], [edge], [8.0]]
    found = detect(place_boxes(boxes, logits), score_threshold=threshold)
    assert_close(found.scores, torch.tensor([8.0, edge + 1e-3]).sigmoid())


def test_logits_of_the_thresholds() -> None:
    assert logit(0.05) == pytest.approx(-math.log(19))  # .05 / .95 = 1 / 19
    assert (logit(0.0), logit(0.5), logit(1.0)) == (-math.inf, 0.0, math.inf)


def test_threshold_zero_keeps_all_and_threshold_one_none(generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1)
    free = {
        "grid": build_grid(),
        "candidates_per_level": None,
        "max_detections": None,
        "nms_iou": 1.0,
        "min_size": None,
    }
    assert len(detect(predictions, score_threshold=0.0, **free).scores) == 1161 * 3
    assert len(detect(predictions, score_threshold=1.0, **free).scores) == 0


def test_best_candidates_are_taken_level_by_level() -> None:
    grid = ONE_ANCHOR
    sizes = grid.map_sizes(SIZE)
    logits = [torch.full((1, 1, *size), 0.0) for size in sizes]
    logits[0] += torch.arange(96.0).reshape(1, 1, 8, 12) / 100 + 5  # P3 has the 96 best
    deltas = [torch.zeros(1, 4, *size) for size in sizes]
    found = detect(Predictions(logits, deltas), candidates_per_level=2, nms_iou=1.0, max_detections=None, min_size=None)
    # two of each of P3, P4, P5, P6 (1 x 2 cells) and the one of P7
    assert len(found.scores) == 2 + 2 + 2 + 2 + 1
    assert_close(found.scores[:2], torch.tensor([5.95, 5.94]).sigmoid())


def test_max_detections_keeps_the_best(generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1)
    every = detect(predictions, grid=build_grid(), max_detections=None)
    assert len(every.scores) > 30
    some = detect(predictions, grid=build_grid(), max_detections=30)
    assert_same_detections(some, Detections(*(field[:30] for field in every)))
    assert (every.scores.diff() <= 0).all()


@pytest.mark.parametrize("softmax", [False, True])
def test_an_image_without_detections_has_empty_fields_of_the_right_shape(softmax: bool) -> None:
    predictions = place_boxes([], [])
    if softmax:
        predictions = Predictions([torch.zeros_like(m) for m in predictions.class_logits], predictions.box_deltas)
    found = detect(predictions, softmax=softmax, score_threshold=0.6)
    assert [tuple(field.shape) for field in found] == [(0, 4), (0,), (0,)]
    assert [field.dtype for field in found] == [torch.float32, torch.float32, torch.int64]


def test_boxes_are_clipped_to_the_image_without_its_padding() -> None:
    predictions = place_boxes([[-10.0, -5, 200, 300]], [[3.0]])
    (found,) = Postprocess(ONE_ANCHOR, 1)(predictions, torch.tensor([[50, 70]]), SIZE)
    assert found.boxes.tolist() == [[0, 0, 70, 50]]


def test_boxes_that_clipping_empties_are_dropped_unless_min_size_is_none() -> None:
    predictions = place_boxes([[-30.0, 0, -10, 20], [0, 0, 8, 30], [10, 10, 40, 40]], [[3.0], [2.0], [1.0]])
    assert_close(detect(predictions).scores, torch.tensor([2.0, 1.0]).sigmoid())
    assert_close(detect(predictions, min_size=10.0).scores, torch.tensor([1.0]).sigmoid())
    everything = detect(predictions, min_size=None)
    assert_close(everything.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    assert everything.boxes[0].tolist() == [0, 0, 0, 20]


def test_an_iou_of_exactly_the_threshold_stays(golden: Golden) -> None:
    arrays = golden("nms")
    for threshold in ("0.3", "0.5", "0.7"):
        kept = arrays[f"keep_{threshold}"]
        logits = [[math.log(score / (1 - score))] for score in arrays["scores"].tolist()]
        found = detect(place_boxes(arrays["boxes"].tolist(), logits), nms_iou=float(threshold), min_size=None)
        assert_close(found.scores, arrays["scores"][kept])
        assert_close(found.boxes, arrays["boxes"][kept], atol=1e-4, rtol=0)


def test_numbers_of_the_classes_do_not_change_what_is_found() -> None:
    # Suppression moves every class to a place of its own; in float32 that rounds the boxes of far classes by 1/250 px,
    # and these crowds then lost or kept other boxes as class 79 than as class 0.
    size = (1088, 1088)
    for seed in (0, 2, 4):
        generator = torch.Generator().manual_seed(seed)
        corners = 1000 + 50 * torch.rand(400, 2, generator=generator)
        boxes = torch.cat([corners, corners + 8 + 24 * torch.rand(400, 2, generator=generator)], dim=1).tolist()
        near = 4 * torch.rand(400, 1, generator=generator)
        far = torch.cat([torch.full((400, 79), NEVER), near], dim=1)
        first, last = (
            detect(place_boxes(boxes, logits.tolist(), size=size), size=size, max_detections=None)
            for logits in (near, far)
        )
        assert torch.equal(first.boxes, last.boxes), seed
        assert (last.labels == 79).all()


def test_class_wise_suppression_is_that_of_each_class_alone(generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1)
    free = {"grid": build_grid(), "max_detections": None, "candidates_per_level": None}
    together = detect(predictions, **free)
    for label in range(3):
        logits = [level.unflatten(1, (-1, 3))[:, :, label] for level in predictions.class_logits]
        alone = detect(Predictions(logits, predictions.box_deltas), **free)
        chosen = together.labels == label
        assert torch.equal(together.boxes[chosen], alone.boxes)
        assert_close(together.scores[chosen], alone.scores)


def test_an_image_alone_gives_what_it_gives_in_a_batch(generator: torch.Generator) -> None:
    predictions, postprocess = random_predictions(generator, 3), Postprocess(build_grid(), 3)
    image_sizes = torch.tensor([[64, 96], [50, 60], [33, 96]])
    together = postprocess(predictions, image_sizes, SIZE)
    for i, batch_found in enumerate(together):
        alone = Predictions(*([level[i : i + 1] for level in maps] for maps in predictions))
        (found,) = postprocess(alone, image_sizes[i : i + 1], SIZE)
        assert len(found.scores) > 0
        for one, other in zip(found, batch_found, strict=True):
            assert torch.equal(one, other)


def test_channels_last_and_half_precision_maps_give_float32_detections(generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1)
    half = Predictions(*([level.bfloat16() for level in maps] for maps in predictions))
    wide = Predictions(*([level.float() for level in maps] for maps in half))
    layout = Predictions(*([level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in half))
    options = {"grid": build_grid(), "score_threshold": 0.5}  # logit 0, which half precision holds
    expected = detect(wide, **options)
    assert len(expected.scores) > 10
    assert_same_detections(detect(half, **options), expected)
    assert_same_detections(detect(layout, **options), expected)


def test_detecting_keeps_no_graph(generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1)
    for maps in predictions:
        for level in maps:
            level.requires_grad_()
    assert not any(field.requires_grad for field in detect(predictions, grid=build_grid()))


# --- the softmax form


def test_softmax_scores_are_probabilities_without_the_background() -> None:
    # e^0 : e^log(3) : e^log(4) = 1 : 3 : 4 for background, class 0, class 1
    predictions = place_boxes([[0.0, 0, 20, 20]], [[0.0, math.log(3), math.log(4)]])
    background = [level.clone() for level in predictions.class_logits]
    for level in background:
        by_class = level.unflatten(1, (-1, 3))
        by_class[:, :, 0][by_class[:, :, 1] == NEVER] = 0.0  # elsewhere all is background
    found = detect(Predictions(background, predictions.box_deltas), softmax=True, score_threshold=0.3)
    assert found.labels.tolist() == [1, 0]
    assert_close(found.scores, torch.tensor([4 / 8, 3 / 8]))


def test_softmax_form_takes_the_best_of_each_level(generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1, num_classes=4)
    options = {"grid": build_grid(), "softmax": True, "nms_iou": 1.0, "max_detections": None, "min_size": None}
    found = detect(predictions, candidates_per_level=5, score_threshold=0.2, **options)
    probabilities = permute_to_N_A_K(predictions.class_logits, 4)[0].softmax(dim=1)[:, 1:]
    best = [level.flatten().sort(descending=True).values[:5] for level in probabilities.split([864, 216, 54, 18, 9])]
    expected = torch.cat([level[level > 0.2] for level in best])
    assert_close(found.scores, expected.sort(descending=True).values)


# --- the peers

YHENON = {
    "candidates_per_level": None,
    "max_detections": None,
    "min_size": None,
    "box_stds": (0.1, 0.1, 0.2, 0.2),
}
TORCHVISION = {"min_size": None, "max_detections": 300}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yhenon": ({}, YHENON),
    "mmdet": ({"offset": 0.0}, {}),
    "mmdet_nms_pre50_max20": ({"offset": 0.0}, {"candidates_per_level": 50, "max_detections": 20}),
    "torchvision": ({"offset": 0.0, "rounded": True, "strides_from_image": True}, TORCHVISION),
    "torchvision_topk50_dets20": (
        {"offset": 0.0, "rounded": True, "strides_from_image": True},
        {"candidates_per_level": 50, "max_detections": 20, "min_size": None},
    ),
}


@pytest.mark.parametrize("peer", SETTINGS)
def test_detections_are_those_of_the_peers(golden: Golden, peer: str) -> None:
    arrays, (anchors, options) = golden("postprocess"), SETTINGS[peer]
    grid = build_grid(**anchors)
    assert tuple(arrays["image_hw"].tolist()) == SIZE
    maps = [permute_from_N_A_K(arrays[key][None], grid.map_sizes(SIZE)) for key in ("logits", "deltas")]
    ours = detect(Predictions(*maps), grid=grid, **options)
    theirs = Detections(*(arrays[f"{peer}_{field}"] for field in Detections._fields))
    order = theirs.scores.argsort(descending=True)  # yhenon lists class by class
    assert_same_detections(ours, Detections(*(field[order] for field in theirs)))


def test_rescaled_boxes_lie_in_the_original_image() -> None:
    found = Detections(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5]), torch.tensor([1]))
    # twice as high, three times as wide
    rescaled = rescale_detections(found, 2.0, 3.0)
    assert rescaled.boxes.tolist() == [[3, 4, 9, 8]]
    assert found.boxes.tolist() == [[1, 2, 3, 4]]
