"""Post-processing beside the plain formulation: every probability, level by level, image by image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from retinanet.anchors.boxes import clip_boxes, decode_boxes
from retinanet.anchors.grid import build_grid
from retinanet.inference.postprocess import BLOCK, Detections, Postprocess, top_indices
from retinanet.network.predictions import Predictions, permute_from_N_A_K, permute_to_N_A_K

SIZE, NUM_CLASSES = (160, 224), 7
GRID = build_grid()
CASES = [
    {},
    {"candidates_per_level": 37},
    {"candidates_per_level": 37, "max_detections": 11},
    {"candidates_per_level": None, "score_threshold": 0.3},
    {"max_detections": None, "score_threshold": 0.2},
    {"nms_iou": 0.05, "max_detections": 3},
    {"min_size": 20.0},
    {"min_size": None},
]


def random_predictions(seed: int, num_images: int = 3) -> Predictions:
    generator, sizes = torch.Generator().manual_seed(seed), GRID.map_sizes(SIZE)
    shape = (num_images, sum(GRID.anchors_per_level(SIZE)))
    logits = 1.5 * torch.randn(*shape, NUM_CLASSES, generator=generator) - 4
    deltas = 0.5 * torch.randn(*shape, 4, generator=generator)
    return Predictions(permute_from_N_A_K(logits, sizes), permute_from_N_A_K(deltas, sizes))


def detect_plainly(
    logits: Tensor,
    deltas: Tensor,
    image_size: Tensor,
    *,
    score_threshold: float = 0.05,
    candidates_per_level: int | None = 1000,
    nms_iou: float = 0.5,
    max_detections: int | None = 100,
    min_size: float | None = 0.0,
) -> Detections:
    """One image from [A, K] and [A, 4]."""
    counts, parts = GRID.anchors_per_level(SIZE), []
    levels = zip(*(values.split(counts) for values in (logits.sigmoid(), deltas, GRID.anchors(SIZE))), strict=True)
    for scores, codes, anchors in levels:
        rows, labels = torch.nonzero(scores > score_threshold, as_tuple=True)
        best = scores[rows, labels].sort(descending=True).indices[:candidates_per_level]
        rows, labels = rows[best], labels[best]
        boxes = clip_boxes(decode_boxes(codes[rows], anchors[rows]), image_size)
        large = ((boxes[:, 2:] - boxes[:, :2]) > (-1 if min_size is None else min_size)).all(dim=1)
        parts.append((boxes[large], scores[rows, labels][large], labels[large]))
    boxes, scores, labels = (torch.cat(field) for field in zip(*parts, strict=True))
    keep = batched_nms(boxes.double(), scores.double(), labels, nms_iou)[:max_detections]
    return Detections(boxes[keep], scores[keep], labels[keep])


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_detections_are_those_of_the_plain_formulation(options: dict[str, Any], channels_last: bool) -> None:
    predictions, image_sizes = random_predictions(0), torch.tensor([SIZE, (100, 224), (160, 50)])
    flat = [permute_to_N_A_K(maps, channels) for maps, channels in zip(predictions, (NUM_CLASSES, 4), strict=True)]
    if channels_last:
        predictions = Predictions(
            *([level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in predictions)
        )
    found = Postprocess(GRID, NUM_CLASSES, **options)(predictions, image_sizes, SIZE)
    for i, ours in enumerate(found):
        plain = detect_plainly(flat[0][i], flat[1][i], image_sizes[i], **options)
        assert len(plain.scores) > 2
        assert torch.equal(ours.labels, plain.labels)
        torch.testing.assert_close(ours.scores, plain.scores, rtol=1e-6, atol=0)
        torch.testing.assert_close(ours.boxes, plain.boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"candidates_per_level": None}])
def test_equal_scores_are_found_in_the_same_order_in_both_layouts(options: dict[str, Any]) -> None:
    predictions = random_predictions(1, num_images=2)
    rough = Predictions([level.round() for level in predictions.class_logits], predictions.box_deltas)
    last = Predictions(*([level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in rough))
    postprocess = Postprocess(GRID, NUM_CLASSES, score_threshold=0.4, **options)  # less than 1000 on each level
    sizes = torch.tensor([SIZE, SIZE])
    for one, other in zip(postprocess(rough, sizes, SIZE), postprocess(last, sizes, SIZE), strict=True):
        assert len(one.scores) == 100
        assert one.scores.unique().numel() < 20
        assert all(torch.equal(*fields) for fields in zip(one, other, strict=True))


def test_logits_that_are_not_numbers_are_not_found() -> None:
    predictions = random_predictions(2, num_images=1)
    postprocess, sizes = Postprocess(GRID, NUM_CLASSES), torch.tensor([SIZE])
    (before,) = postprocess(predictions, sizes, SIZE)
    assert len(before.scores) == 100
    for level in predictions.class_logits:
        level[:] = torch.nan
    (found,) = postprocess(predictions, sizes, SIZE)
    assert len(found.scores) == 0


# ---- the largest values ----


@pytest.mark.parametrize("count", [1, 3, 10, 40])
@pytest.mark.parametrize("size", [5, BLOCK, 11 * BLOCK, 41 * BLOCK + 1, 60 * BLOCK - 1])
def test_largest_values_are_those_of_topk(count: int, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(3, size, generator=generator)
    values[1] = values[1].sort().values  # all of them in a few blocks, or in the rest after the last
    values[2] = (2 * values[2]).round()  # ties
    index = top_indices(values, count)
    assert all(len(set(row)) == min(count, size) for row in index.tolist())
    ours = values.gather(1, index).sort(dim=1, descending=True).values
    assert torch.equal(ours, values.topk(min(count, size), dim=1).values)
