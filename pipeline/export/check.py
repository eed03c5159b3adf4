"""The check of an exported file: its detections on real pictures beside those of the detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.cli.progress import Count
from retinanet.data.dataset import Batch, pack
from retinanet.data.records import Record
from retinanet.inference.detector import Detector
from retinanet.inference.postprocess import Detections, Postprocess, rescale_detections
from retinanet.inference.temperature import calibrate_scores

Array = npt.NDArray[Any]
Run = Callable[[Array, Array], Sequence[Array]]
"""images [N, H, W, 3] uint8 and sizes [N, 2] int64 -> the outputs of DetectionGraph."""

MOST_PX, MOST_SCORE = 0.01, 1e-5
TOGETHER = 4  # pictures in the batch that is checked, too


class Difference(NamedTuple):
    """How an exported file differs from the detector.

    Attributes:
        pictures, detections: compared.
        box_px: largest difference of a corner, px in the picture.
        score: largest difference of a score.
        missing: detections of one without a detection of the other of the same class, box and score.
    """

    pictures: int = 0
    detections: int = 0
    box_px: float = 0.0
    score: float = 0.0
    missing: int = 0

    def __add__(self, other: Difference) -> Difference:  # type: ignore[override]  # no tuple is joined
        return Difference(
            self.pictures + other.pictures,
            self.detections + other.detections,
            max(self.box_px, other.box_px),
            max(self.score, other.score),
            self.missing + other.missing,
        )

    @property
    def is_small(self) -> bool:
        """Whether the file detects what the detector does."""
        return self.missing == 0 and self.box_px <= MOST_PX and self.score <= MOST_SCORE

    def __str__(self) -> str:
        text = (
            f"{self.detections} detections on {self.pictures} pictures, boxes within {self.box_px:.2g} px, scores "
            f"within {self.score:.2g}"
        )
        return f"{text}, {self.missing} without a counterpart" if self.missing else text


def check(run: Run, detector: Detector, pictures: Sequence[Tensor]) -> Difference:
    """Compare a file with the detector on every picture, on parts of them in other sizes, and on a batch of both.

    Args:
        pictures: [3, H, W] uint8 RGB each.
    """
    parts = [part_of(picture) for picture in pictures[: TOGETHER // 2]]
    batches = [[picture] for picture in (*pictures, *parts)]
    batches.append([*pictures[: TOGETHER - len(parts)], *parts])
    total = Difference()
    with Count(len(batches), title="check", units="batches") as count:
        for shown in batches:
            total += compare_batch(run, detector, batch_of(detector, shown))
            count()
    return total


def part_of(picture: Tensor) -> Tensor:
    """The upper left part of a picture [3, H, W], of other proportions."""
    height, width = picture.shape[1:]
    return picture[:, : max(1, height * 3 // 4), : max(1, width // 2)]


def batch_of(detector: Detector, pictures: Sequence[Tensor]) -> Batch:
    """Pictures as one batch without ground truth, as predict reads them."""
    transforms, no_boxes, no_labels = detector.transforms, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    images = [transforms.apply(picture, no_boxes, transforms.for_evaluation)[0] for picture in pictures]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    records = [
        Record(number, "", (picture.shape[1], picture.shape[2]), no_boxes, no_labels)
        for number, picture in enumerate(pictures)
    ]
    return pack(
        transforms.pad(images, transforms.padded_size_of(sizes)), [(no_boxes, no_labels)] * len(images), records, sizes
    )


def compare_batch(run: Run, detector: Detector, batch: Batch) -> Difference:
    """Compare the detections of a file and of the detector on one batch."""
    found = detect(run, batch)
    expected = [detections for _, detections in detector.predict([batch])]
    pairs = zip(expected, found, strict=True)
    return sum((compare(*pair, detector.postprocess) for pair in pairs), Difference())


def detect(run: Run, batch: Batch) -> list[Detections]:
    """Detections of a file on a batch, in px of the pictures."""
    height, width = batch.image_sizes.amax(dim=0).tolist()  # the graph pads by itself
    images = batch.images[:, :, :height, :width].permute(0, 2, 3, 1)
    outputs = run(np.ascontiguousarray(images.numpy()), batch.image_sizes.numpy())
    boxes, scores, labels, counts = (torch.from_numpy(np.array(output)) for output in outputs)
    factors = (batch.original_sizes / batch.image_sizes).tolist()
    return [
        rescale_detections(Detections(boxes[i, :count], scores[i, :count], labels[i, :count]), *factors[i])
        for i, count in enumerate(counts.tolist())
    ]


def compare(expected: Detections, found: Detections, post: Postprocess) -> Difference:
    """Compare the detections of one picture, whatever the order of those with almost equal scores.

    One that is missing does not count if its score is within rounding of where the list ends.
    """
    apart = (expected.boxes[:, None] - found.boxes).abs().amax(dim=-1)  # [E, F] px
    scores = (expected.scores[:, None] - found.scores).abs()
    apart[expected.labels[:, None] != found.labels] = torch.inf
    box_px, score, left = 0.0, 0.0, torch.ones(len(found.scores), dtype=torch.bool)
    missing: list[float] = []
    for i in range(len(expected.scores)):
        candidates = torch.where(left & (scores[i] <= 100 * MOST_SCORE), apart[i], torch.inf)
        best = int(candidates.argmin()) if len(candidates) else -1
        if best < 0 or not candidates[best] < 100 * MOST_PX:
            missing.append(float(expected.scores[i]))
            continue
        left[best] = False
        box_px, score = max(box_px, float(candidates[best])), max(score, float(scores[i, best]))
    missing += found.scores[left].tolist()
    ends = [end_of(detections, post) for detections in (expected, found)]
    lost = sum(value > max(ends) + MOST_SCORE for value in missing)
    return Difference(1, len(expected.scores), box_px, score, lost)


def end_of(detections: Detections, post: Postprocess) -> float:
    """The score at which the list of a picture ends."""
    is_full = post.max_detections is not None and len(detections.scores) >= post.max_detections
    lowest = torch.tensor(post.score_threshold)
    if post.temperature is not None:
        lowest = calibrate_scores(lowest, post.temperature)
    return float(detections.scores[-1] if is_full else lowest)
