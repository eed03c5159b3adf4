"""What a replica does with a picture: decode, detect, keep what is above the thresholds. Knows no Ray and no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pipeline.detector.calibration import set_postprocess
from pipeline.detector.drawing import draw, encode_jpeg
from pipeline.detector.thresholds import WITHOUT
from pipeline.serve.settings import Settings
from pipeline.serve.uploads import RequestError, decode_upload
from retinanet.data.dataset import Batch
from retinanet.evaluation.temperature import scale_threshold
from retinanet.evaluation.working_point import choose_points, is_kept, parse_target
from retinanet.inference.detector import Detector
from retinanet.inference.postprocess import Detections
from retinanet.inference.temperature import demand_temperature

FLOOR = 0.05  # lowest score that is ever answered, the paper's
RETRY_AFTER_S = 1
FAILURES_BEFORE_RESTART = 3

Result = TypeVar("Result")
Prepared = list[Batch]
Outcome = Detections | Exception


class Found(NamedTuple):
    """The detections of a picture that are above the thresholds, in its px, best first.

    Attributes:
        size: height and width of the picture, px.
        thresholds: of the K classes, exclusive.
    """

    size: tuple[int, int]
    detections: Detections
    thresholds: list[float]


class DetectionService:
    """Detects on pictures of many callers.

    Args:
        detector: gets the post-processing of the service.
        threads: that decode.

    Attributes:
        temperature: with which scores are calibrated; None: they are not.
        thresholds: of the classes, by default.
        floor: score below which nothing is answered whatever a caller asks for.
        detect_one: detects on one prepared picture; by default at once, Ray Serve's replica collects batches.
    """

    def __init__(self, detector: Detector, settings: Settings, *, threads: int = 1) -> None:
        self.detector, self.settings = detector, settings
        description = detector.description
        self.temperature = demand_temperature(description) if settings.calibrate else None
        self.thresholds = choose_default(description, settings, self.temperature)
        floor = min(FLOOR, description.get("postprocess", {}).get("score_threshold", FLOOR))
        if self.temperature is not None:
            floor = scale_threshold(floor, self.temperature)
        self.floor = min(floor, *self.thresholds)
        set_postprocess(detector, lowest=self.floor, calibrate=settings.calibrate)
        self.detect_one: Callable[[Prepared], Awaitable[Outcome]] = self.detect_alone
        self.waiting, self.failures = 0, 0
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")  # one batch after the other

    @contextmanager
    def accept(self) -> Iterator[None]:
        """Count a picture as waiting while the body runs.

        Raises:
            RequestError: when there are too many.
        """
        if self.waiting >= self.settings.max_waiting:
            message = f"{self.waiting} pictures are waiting, the limit of this service; try again"
            raise RequestError(503, message, {"Retry-After": str(RETRY_AFTER_S)})
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def detect(self, content: bytes, thresholds: list[float]) -> Found:
        """Detect on the picture of a file.

        Raises:
            RequestError: when the file is none.
        """
        size, prepared = await run_in(self._decoding, self._prepare, content)
        outcome = await self.detect_one(prepared)
        if isinstance(outcome, Exception):
            raise outcome
        kept = is_kept(outcome.scores.numpy(), outcome.labels.numpy(), thresholds)
        return Found(size, Detections(*(field[torch.from_numpy(kept)] for field in outcome)), thresholds)

    async def detect_batch(self, pictures: Sequence[Prepared]) -> list[Outcome]:
        """Detect on prepared pictures together; where that fails, one by one, so that one cannot spoil the others."""
        return await run_in(self._network, self._detect_batch, pictures)

    async def draw(self, content: bytes, found: Found) -> bytes:
        """Draw the detections into the picture of a file; a JPEG."""
        return await run_in(self._decoding, self._draw, content, found)

    def choose_thresholds(self, *, threshold: str | None, working_point: str | None) -> list[float]:
        """The thresholds that a caller asks for.

        Raises:
            RequestError: when they are none.
        """
        if threshold is not None:
            return [parse_threshold(threshold)] * len(self.thresholds)
        if working_point is None:
            return self.thresholds
        try:
            target = parse_target(working_point)
            points = choose_points(self.detector.description, target, temperature=self.temperature)
        except ValueError as error:
            raise RequestError(400, f"working_point: {error}") from None
        if points is None:
            raise RequestError(400, "the model has no working point; send threshold instead")
        return points.thresholds

    def check(self) -> None:
        """Raise RequestError when the network has failed again and again, as on a GPU after an error."""
        if self.failures >= FAILURES_BEFORE_RESTART:
            raise RequestError(503, f"the network failed on {self.failures} pictures in a row")

    def _prepare(self, content: bytes) -> tuple[tuple[int, int], Prepared]:
        picture = decode_upload(content, max_pixels=self.settings.max_pixels)
        return (picture.shape[1], picture.shape[2]), self.detector.prepare(picture)

    async def detect_alone(self, prepared: Prepared) -> Outcome:
        """Detect on one prepared picture at once."""
        return (await self.detect_batch([prepared]))[0]

    def _detect_batch(self, pictures: Sequence[Prepared]) -> list[Outcome]:
        try:
            found = self.detector.detect(pictures, images_per_pass=self.settings.batch_size)
        except Exception as error:  # noqa: BLE001  # out of memory, mostly
            if len(pictures) > 1:
                return [outcome for picture in pictures for outcome in self._detect_batch([picture])]
            self.failures += 1
            return [error]
        self.failures = 0
        return [*found]

    def _draw(self, content: bytes, found: Found) -> bytes:
        picture: Tensor = decode_upload(content, max_pixels=self.settings.max_pixels)
        return encode_jpeg(draw(picture, found.detections, self.detector.class_names))


async def run_in(pool: Executor, work: Callable[..., Result], *arguments: object) -> Result:
    """Do work in a thread, so that requests go on."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def choose_default(description: Mapping[str, Any], settings: Settings, temperature: float | None) -> list[float]:
    """The thresholds of the settings, else of the working point, else one for all."""
    if settings.thresholds is not None:
        return list(settings.thresholds)
    points = choose_points(description, parse_target(settings.working_point), temperature=temperature)
    return points.thresholds if points else [WITHOUT] * len(description["categories"])


def parse_threshold(text: str) -> float:
    """Read a score.

    Raises:
        RequestError: when it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(400, f"threshold is {text[:40]!r}; expected a number from 0 to 1")
    return value
