"""Detect on pictures and write what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from pipeline.cli.progress import Count
from pipeline.predict.batches import IMAGES_PER_BATCH, PictureBatches, Read
from pipeline.predict.inputs import Source
from pipeline.predict.outputs import WRITERS, Found, Writer, describe, write_text
from retinanet.data.dataset import Batch, loader_context, split_batch
from retinanet.evaluation.working_point import is_kept
from retinanet.inference.detector import Detector
from retinanet.inference.postprocess import Detections


def predict(
    detector: Detector,
    sources: Sequence[Source],
    *,
    thresholds: Sequence[float],
    output: Path,
    formats: Sequence[str],
    processes: int,
    shows_lines: bool,
) -> list[tuple[Source, str]]:
    """Detect on all pictures and write the results; return those that could not be read, with the reason.

    Args:
        thresholds: score of each class (exclusive) above which detections are written.
        output: folder of the results; pictures of the same names are overwritten.
        formats: keys of WRITERS.
        processes: that read and decode ahead; 0: none.
        shows_lines: print a line per picture instead of progress.
    """
    writers = [WRITERS[name](output, detector.description["categories"]) for name in formats]
    failures: list[tuple[int, str]] = []
    batches = PictureBatches([source.location for source in sources], detector.transforms)
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=processes,
        multiprocessing_context=loader_context(processes),
        pin_memory=detector.device.type == "cuda",
    )
    with Count(len(sources), title="predict", unit="image") as count:
        for found in detect(detector, loader, sources, failures):
            found = found._replace(detections=keep_above(found.detections, thresholds))
            write(found, writers)
            if shows_lines:
                print(describe(found, detector.class_names), flush=True)
            count()
    for writer in writers:
        writer.close()
    failed = [(sources[place], reason) for place, reason in sorted(failures)]
    if failed:
        text = "".join(f"{source.location}\t{reason}\n" for source, reason in failed)
        write_text(output / "failed.txt", text)
    return failed


def detect(
    detector: Detector, loader: DataLoader[Read], sources: Sequence[Source], failures: list[tuple[int, str]]
) -> Iterator[Found]:
    """Yield the detections of every picture that can be read; `failures` gets the others."""
    sizes: dict[int, tuple[int, int]] = {}

    def readable() -> Iterator[Batch]:
        for batch, failed in loader:
            failures.extend(failed)
            if batch is not None:
                # Of a picture in tiles the last one, at the right and the bottom, tells its size.
                shown = zip(batch.image_ids, batch.corners, batch.original_sizes.tolist(), strict=True)
                sizes.update((place, (top + height, left + width)) for place, (top, left), (height, width) in shown)
                yield from split_batch(batch, IMAGES_PER_BATCH)

    for place, detections in detector.predict(readable()):
        yield Found(place + 1, sources[place], sizes.pop(place), detections)


def keep_above(detections: Detections, thresholds: Sequence[float]) -> Detections:
    """The detections with a score above the threshold of their class."""
    kept = torch.from_numpy(is_kept(detections.scores.numpy(), detections.labels.numpy(), thresholds))
    return Detections(*(field[kept] for field in detections))


def write(found: Found, writers: Sequence[Writer]) -> None:
    """Give one picture to every writer."""
    for writer in writers:
        writer.write(found)
