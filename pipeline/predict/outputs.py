"""Writers of detections: one class per format, each told of every picture and closed at the end."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from pipeline.detector.drawing import draw, encode_jpeg
from pipeline.formats.records import printable
from pipeline.predict.batches import in_a_line, read_picture
from pipeline.predict.detection import Found
from pipeline.predict.video import VideoWriter
from pipeline.storage.outs import write_atomic
from retinanet.inference.postprocess import Detections


class LostPictureError(Exception):
    """A picture that was detected on, but cannot be read again to be drawn."""


class Writer(ABC):
    """Writes detections into a folder of its own or a file."""

    def __init__(self, folder: Path, categories: Sequence[dict[str, Any]]) -> None:
        self.folder, self.categories = folder, categories
        self.names = [str(category["name"]) for category in categories]

    @abstractmethod
    def write(self, found: Found) -> None:
        """Write the detections of one picture."""

    def close(self) -> None:  # noqa: B027 - most formats need no end
        """Write what belongs to all pictures."""


class Pictures(Writer):
    """pictures/NAME.jpg and videos/NAME.mp4: boxes with class and score, in the colour of the class."""

    def __init__(self, folder: Path, categories: Sequence[dict[str, Any]]) -> None:
        super().__init__(folder, categories)
        self.film: VideoWriter | None = None

    def write(self, found: Found) -> None:
        """Draw one picture, or the next frame of a video."""
        if found.pixels is not None:
            self.write_frame(found, found.pixels)
            return
        content = encode_jpeg(draw(read_again(found.source.location), found.detections, self.names))
        path = self.folder / "pictures" / f"{found.source.name}.jpg"
        write_atomic(path, lambda temporary: temporary.write_bytes(content))

    def write_frame(self, found: Found, pixels: Tensor) -> None:
        """Draw a frame; the first one begins the file."""
        if found.frame == 0:
            self.close()
            name = found.source.name.rpartition("/")[0]
            path = self.folder / "videos" / f"{name}.mp4"
            self.film = VideoWriter(path, like=found.source.location, size=found.size)
        assert self.film is not None, "frames come in sequence"
        self.film.write(draw(pixels, found.detections, self.names))

    def close(self) -> None:
        """Complete the last video."""
        if self.film is not None:
            self.film.close()
            self.film = None


class Coco(Writer):
    """coco.json (pictures, detections with scores, categories) and results.json (a COCO results file).

    A frame of a video has its number as frame_id, as in CocoVID.
    """

    def __init__(self, folder: Path, categories: Sequence[dict[str, Any]]) -> None:
        super().__init__(folder, categories)
        self.images: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def write(self, found: Found) -> None:
        """Keep one picture."""
        height, width = found.size
        name = found.source.location
        image = {"id": found.number, "file_name": name, "height": height, "width": width}
        self.images.append(image if found.frame is None else image | {"frame_id": found.frame})
        boxes = found.detections.boxes.tolist()
        for (label, score), (x1, y1, x2, y2) in zip(_pairs(found.detections), boxes, strict=True):
            bbox = [round(side, 2) for side in (x1, y1, x2 - x1, y2 - y1)]
            own = self.categories[label]["id"]
            self.rows.append({"image_id": found.number, "category_id": own, "bbox": bbox, "score": round(score, 5)})

    def close(self) -> None:
        """Write both files."""
        annotations = [
            {"id": number, **row, "area": round(row["bbox"][2] * row["bbox"][3], 2), "iscrowd": 0}
            for number, row in enumerate(self.rows, start=1)
        ]
        content = {"images": self.images, "annotations": annotations, "categories": list(self.categories)}
        write_text(self.folder / "coco.json", json.dumps(content))
        write_text(self.folder / "results.json", json.dumps(self.rows))


class Csv(Writer):
    """detections.csv: a row per detection, with a header; boxes in px; frame is the number of a frame of a video."""

    HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "score", "frame")

    def __init__(self, folder: Path, categories: Sequence[dict[str, Any]]) -> None:
        super().__init__(folder, categories)
        self.rows: list[tuple[object, ...]] = []

    def write(self, found: Found) -> None:
        """Keep one picture; one without detections has a row without a box."""
        height, width = found.size
        start, frame = (found.source.location, width, height), "" if found.frame is None else found.frame
        boxes = found.detections.boxes.tolist()
        rows = [
            (*start, self.names[label], *(f"{side:.2f}" for side in box), f"{score:.5f}", frame)
            for (label, score), box in zip(_pairs(found.detections), boxes, strict=True)
        ]
        self.rows += rows or [(*start, *[""] * 6, frame)]

    def close(self) -> None:
        """Write the file."""
        write_atomic(self.folder / "detections.csv", self._write)

    def _write(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.HEADER)
            writer.writerows(self.rows)


class Yolo(Writer):
    """labels/NAME.txt (class index, centre and size in fractions of the sides) and data.yaml."""

    def write(self, found: Found) -> None:
        """Write one label file; empty without detections."""
        height, width = found.size
        scale = torch.tensor([width, height, width, height])
        x1, y1, x2, y2 = (found.detections.boxes / scale).unbind(1)
        fractions = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1)
        rows = zip(found.detections.labels.tolist(), fractions.tolist(), strict=True)
        text = "".join(f"{label} {' '.join(f'{side:.6f}' for side in row)}\n" for label, row in rows)
        write_text(self.folder / "labels" / f"{found.source.name}.txt", text)

    def close(self) -> None:
        """Write the names; JSON is YAML."""
        write_text(self.folder / "data.yaml", f"names: {json.dumps(self.names, ensure_ascii=False)}\n")


class Voc(Writer):
    """annotations/NAME.xml: Pascal VOC with the corners as they are."""

    def write(self, found: Found) -> None:
        """Write one page."""
        page = ElementTree.Element("annotation")
        _add(page, "filename", printable(found.source.location.rpartition("/")[2]))
        size = ElementTree.SubElement(page, "size")
        for name, value in zip(("height", "width", "depth"), (*found.size, 3), strict=True):
            _add(size, name, str(value))
        boxes = found.detections.boxes.tolist()
        for (label, score), box in zip(_pairs(found.detections), boxes, strict=True):
            entry = ElementTree.SubElement(page, "object")
            _add(entry, "name", self.names[label])
            _add(entry, "confidence", f"{score:.5f}")
            corners = ElementTree.SubElement(entry, "bndbox")
            for name, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                _add(corners, name, f"{side:.2f}")
        ElementTree.indent(page)
        path = self.folder / "annotations" / f"{found.source.name}.xml"
        write_atomic(path, lambda temporary: ElementTree.ElementTree(page).write(temporary, encoding="utf-8"))


WRITERS: dict[str, type[Writer]] = {"pictures": Pictures, "coco": Coco, "csv": Csv, "yolo": Yolo, "voc": Voc}


def read_again(location: str) -> Tensor:
    """Read a picture that was read before; no run keeps the pixels of all that it has detected on.

    Raises:
        LostPictureError: with the reason.
    """
    try:
        return read_picture(location)
    except Exception as error:  # as in PictureBatches
        raise LostPictureError(f"detected on, but not drawn: {in_a_line(error)}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file atomically; a name that is no UTF-8 has escapes there."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def describe(found: Found, names: Sequence[str]) -> str:
    """Format one picture as a line: its location, and class, score and box (x1, y1, x2, y2 in px) of each detection."""
    boxes = found.detections.boxes.tolist()
    parts = [
        f"{names[label]} {score:.2f} [{', '.join(f'{side:.0f}' for side in box)}]"
        for (label, score), box in zip(_pairs(found.detections), boxes, strict=True)
    ]
    frame = "" if found.frame is None else f" frame {found.frame}"
    return printable(f"{found.source.location}{frame}: {'; '.join(parts) or 'nothing'}")


def _pairs(detections: Detections) -> list[tuple[int, float]]:
    """Label and score of each detection."""
    return list(zip(detections.labels.tolist(), detections.scores.tolist(), strict=True))


def _add(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text
