"""A fixed sample of validation images, drawn after every evaluated epoch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pipeline.reports.pictures import SheetPicture, draw_sheet
from retinanet.data.splits import Split, load_split

NUM_SAMPLES = 8
COLUMNS = 4
KEY = "val/detections"
"""Name of the sheets in MLflow's image grid."""


class PictureLog(Protocol):
    """What stores the sheets: a run of pipeline.tracking."""

    def log_picture(self, key: str, picture: bytes, step: int) -> None:
        """Store the bytes of a PNG file in the image grid."""


def choose_sample_images(content: Mapping[str, Any], count: int = NUM_SAMPLES) -> list[int]:
    """Return ids of images spread evenly over a prepared split; the same in every run."""
    ids = [image["id"] for image in content["images"]]
    indices = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int).tolist()
    return [ids[index] for index in indices]


class SampleImages:
    """The sample images of a prepared file, with their detections by epoch.

    Detections of a later epoch may come before an earlier one is drawn, where epochs take milliseconds.

    Args:
        path: the prepared file.
        root: folder or URL of the images.
        score_threshold: minimum score of the detections drawn.
    """

    def __init__(self, path: Path, *, root: str, score_threshold: float) -> None:
        self.path, self.root, self.score_threshold = path, root, score_threshold
        self._found: dict[int, Mapping[int, Sequence[Any]]] = {}
        self._split: Split | None = None

    def keep(self, found: Mapping[int, Sequence[Any]], *, epoch: int) -> None:
        """Keep the detections of an epoch until it is drawn: image id -> boxes, scores, labels as lists."""
        self._found[epoch] = found

    def log(self, run: PictureLog, *, epoch: int) -> None:
        """Draw the detections for the image grid of a run, once per evaluated epoch.

        Pictures that only the workers can read are no error of the training: a line says so.
        """
        found = self._found.pop(epoch, None)
        if not found:
            return
        try:
            self._split = self._split or load_split(self.path, root=self.root)
            sheet = draw_sample_images(self._split, found, score_threshold=self.score_threshold)
        except (ValueError, OSError) as error:
            print(f"the watched images of epoch {epoch} were not drawn: {error}", flush=True)
            return
        run.log_picture(KEY, sheet, step=epoch)


def draw_sample_images(split: Split, found: Mapping[int, Sequence[Any]], *, score_threshold: float) -> bytes:
    """Return a sheet of the sample images as the bytes of a PNG file.

    Args:
        split: with images that can be read on this machine.
        found: image id -> boxes, scores, labels as lists.
    """
    index_of = {record.image_id: index for index, record in enumerate(split.records)}
    pictures = [sheet_picture(split, index_of[image_id], values) for image_id, values in found.items()]
    file = io.BytesIO()
    draw_sheet(pictures, columns=COLUMNS, score_threshold=score_threshold).save(file, format="PNG")
    return file.getvalue()


def sheet_picture(split: Split, index: int, values: Sequence[Any]) -> SheetPicture:
    """Return one image of the split with ground truth and detections."""
    record = split.records[index]
    boxes, scores, labels = values
    return SheetPicture(
        image=Image.fromarray(split.picture(index).permute(1, 2, 0).numpy()),
        title=Path(record.path).name,
        truth_boxes=record.boxes.numpy(),
        truth_labels=record.labels.numpy(),
        boxes=np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.asarray(scores, dtype=np.float32),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=split.class_names,
    )
