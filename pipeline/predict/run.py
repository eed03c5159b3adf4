"""Detect on pictures and write what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.cli.progress import Count
from pipeline.predict.detection import Failed, Found, detect, detect_frames
from pipeline.predict.inputs import Source
from pipeline.predict.outputs import WRITERS, LostPictureError, describe, write_text
from pipeline.predict.video import count_frames
from retinanet.inference.detector import Detector

FAILED = "failed.txt"
"""Of the results: location and reason of each picture that could not be read."""


def predict(
    detector: Detector,
    sources: Sequence[Source],
    *,
    thresholds: Sequence[float],
    output: Path,
    formats: Sequence[str],
    processes: int,
    shows_lines: bool,
) -> list[Failed]:
    """Detect on all pictures, then on the videos, and write the results; return those that could not be read.

    Args:
        thresholds: score of each class (exclusive) above which detections are written.
        output: folder of the results; pictures of the same names are overwritten.
        formats: keys of WRITERS.
        processes: that read and decode ahead; 0: a thread.
        shows_lines: print a line per picture instead of progress.
    """
    writers = [WRITERS[name](output, detector.description["categories"]) for name in formats]
    failed: list[Failed] = []
    for result in detect_all(detector, sources, thresholds=thresholds, processes=processes):
        if isinstance(result, Failed):
            failed.append(result)
            continue
        for writer in writers:
            try:
                writer.write(result)
            except LostPictureError as error:
                failed.append(Failed(result.number, result.source, str(error), may_heal=False))
        if shows_lines:
            print(describe(result, detector.class_names), flush=True)
    for writer in writers:
        writer.close()
    listed = output / FAILED
    if failed:
        write_text(listed, "".join(f"{each.source.location}\t{each.reason}\n" for each in failed))
    else:
        listed.unlink(missing_ok=True)  # of an earlier run
    return failed


def detect_all(
    detector: Detector, sources: Sequence[Source], *, thresholds: Sequence[float], processes: int
) -> Iterator[Found | Failed]:
    """Detect on the pictures, then on the videos, and yield each picture and frame; arguments as of detect."""
    pictures = [source for source in sources if not source.is_video]
    if pictures:
        results = detect(detector, pictures, thresholds=thresholds, processes=processes)
        yield from counted(results, len(pictures), title="predict", units="images")
    number = len(pictures) + 1
    for source in sources:
        if source.is_video:
            frames = detect_frames(detector, source, number=number, thresholds=thresholds)
            for result in counted(frames, count_frames(source.location), title=source.name, units="frames"):
                number += 1
                yield result


def counted(results: Iterator[Found | Failed], total: int, *, title: str, units: str) -> Iterator[Found | Failed]:
    """Yield results and show their number."""
    with Count(total, title=title, units=units) as count:
        for result in results:
            yield result
            count()
