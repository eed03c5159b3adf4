"""Detect on a list of pictures, in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.predict.batches import PICTURES_PER_READ, PictureBatches, Read, form_batches, show
from pipeline.predict.inputs import Source
from pipeline.predict.video import BrokenVideoError, read_frames
from retinanet.data.dataset import Batch, loader_context
from retinanet.evaluation.working_point import is_kept
from retinanet.inference.detector import Detector
from retinanet.inference.postprocess import Detections

READS_AHEAD = 2  # by the thread


class Found(NamedTuple):
    """The detections of one picture, in its px, best first.

    Attributes:
        number: from 1, in the order of the arguments; the image id.
        size: height and width of the picture, px.
        frame: its number in a video, from 0; None of a picture.
        pixels: [3, H, W] uint8 RGB of a frame.
    """

    number: int
    source: Source
    size: tuple[int, int]
    detections: Detections
    frame: int | None = None
    pixels: Tensor | None = None


class Failed(NamedTuple):
    """A picture that could not be read.

    Attributes:
        number: as of Found.
        may_heal: its store did not answer, and may later.
    """

    number: int
    source: Source
    reason: str
    may_heal: bool


def detect(
    detector: Detector, sources: Sequence[Source], *, thresholds: Sequence[float], processes: int
) -> Iterator[Found | Failed]:
    """Detect on pictures and yield each, in their order.

    Args:
        thresholds: score of each class (exclusive) above which detections are kept.
        processes: as of read_ahead.
    """
    on_cpu = detector.device.type == "cpu"
    batches = PictureBatches([source.location for source in sources], detector.transforms, on_cpu=on_cpu)
    for read in read_ahead(batches, processes=processes, pin_memory=not on_cpu):
        results: dict[int, Found | Failed] = {}
        for place, size, detections in detect_batches(detector, read.batches, thresholds=thresholds):
            results[place] = Found(place + 1, sources[place], size, detections)
        for place, reason, may_heal in read.failures:
            results[place] = Failed(place + 1, sources[place], reason, may_heal)
        yield from (results[place] for place in sorted(results))


def detect_batches(
    detector: Detector, batches: Sequence[Batch], *, thresholds: Sequence[float]
) -> Iterator[tuple[int, tuple[int, int], Detections]]:
    """Yield image id, size in px and detections above the thresholds of every picture."""
    sizes = {image_id: size for batch in batches for image_id, size in picture_sizes(batch)}
    for image_id, detections in detector.predict(batches):
        yield image_id, sizes[image_id], keep_above(detections, thresholds)


def detect_frames(
    detector: Detector, source: Source, *, number: int, thresholds: Sequence[float]
) -> Iterator[Found | Failed]:
    """Detect on the frames of a video and yield each; one that breaks off ends with a failure.

    Args:
        number: of the first frame.
    """
    frame = 0
    try:
        for frames in groups_of(read_frames(source.location), PICTURES_PER_READ):
            shown = [each for place, pixels in enumerate(frames) for each in show(pixels, place, detector.transforms)]
            batches = list(form_batches(shown, detector.transforms, on_cpu=detector.device.type == "cpu"))
            found = sorted(detect_batches(detector, batches, thresholds=thresholds), key=itemgetter(0))
            for (_, size, detections), pixels in zip(found, frames, strict=True):
                named = Source(source.location, f"{source.name}/{frame:06d}")
                yield Found(number + frame, named, size, detections, frame=frame, pixels=pixels)
                frame += 1
        if frame == 0:
            raise BrokenVideoError("it has no frame")
    except BrokenVideoError as error:
        yield Failed(number + frame, source, f"after {frame} frames: {error}" if frame else str(error), may_heal=False)


def groups_of(frames: Iterator[Tensor], count: int) -> Iterator[list[Tensor]]:
    """Yield lists of so many, the last one may be shorter; those before an error come first."""
    error: Exception | None = None
    group: list[Tensor] = []
    while error is None:
        try:
            group.append(next(frames))
        except (StopIteration, BrokenVideoError) as end:
            error = end
        if group and (error is not None or len(group) == count):
            yield group
            group = []
    if isinstance(error, BrokenVideoError):
        raise error


def read_ahead(batches: PictureBatches, *, processes: int, pin_memory: bool) -> Iterator[Read]:
    """Yield the items in sequence, read ahead by so many processes; 0: by a thread, which starts at once."""
    if processes > 0:
        yield from DataLoader(
            batches,
            batch_size=None,
            num_workers=processes,
            multiprocessing_context=loader_context(processes),
            pin_memory=pin_memory,
        )
        return
    with ThreadPoolExecutor(1) as pool:
        ahead: deque[Future[Read]] = deque()
        for position in range(len(batches)):
            ahead.append(pool.submit(batches.__getitem__, position))
            if len(ahead) > READS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def picture_sizes(batch: Batch) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield image id, and height and width in px of the picture up to the end of every tile; the last tile's count."""
    shown = zip(batch.image_ids, batch.corners, batch.original_sizes.tolist(), strict=True)
    for image_id, (top, left), (height, width) in shown:
        yield image_id, (top + height, left + width)


def keep_above(detections: Detections, thresholds: Sequence[float]) -> Detections:
    """The detections with a score above the threshold of their class."""
    kept = torch.from_numpy(is_kept(detections.scores.numpy(), detections.labels.numpy(), thresholds))
    return Detections(*(field[kept] for field in detections))
