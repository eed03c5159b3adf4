"""Small data sets for the tests of the readers, written into a folder of their own."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.formats import Split, SplitFiles, read_splits

WIDTH, HEIGHT = 20, 10


class Source:
    """A data set in the making: pictures of 20 x 10 px, COCO text and VOC pages, and how to read it all back."""

    COCO_FILES = {"train": SplitFiles("train.json", "images")}  # noqa: RUF012
    VOC_FILES = {"train": SplitFiles("ImageSets/Main/train.txt", "JPEGImages")}  # noqa: RUF012

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, content: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    def png(self, grey: int = 0) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (WIDTH, HEIGHT), grey).save(buffer, format="PNG")
        return buffer.getvalue()

    def image(self, number: int, name: str = "a.png", **more: Any) -> dict[str, Any]:
        return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}

    def box(self, number: int, bbox: object = (1, 2, 3, 4), **more: Any) -> dict[str, Any]:
        return {"id": number, "image_id": 1, "category_id": 7, "bbox": bbox, **more}

    def coco(self, images: list[Any], annotations: list[Any], names: tuple[str, ...] = ("cell",)) -> str:
        """The JSON text; category ids are 7, 10, 13, ..."""
        categories = [{"id": 7 + 3 * place, "name": name} for place, name in enumerate(names)]
        return json.dumps({"images": images, "annotations": annotations, "categories": categories})

    def read_coco(self, content: str, **arguments: Any) -> Split:
        """The split train of this text, whose picture a.png is there."""
        self.write("images/a.png", self.png())
        self.write("train.json", content)
        return read_splits("coco", str(self.root), self.COCO_FILES, **arguments)[0]["train"]

    def page(self, *objects: tuple[str, str], filename: str = "a.png") -> str:
        """The XML of an image; an object is a name and its four corners in one text, e.g. ("rod", "1 2 4 6")."""
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        text = "".join(self._object(name, *corners.split()) for name, corners in objects)
        return f"<annotation><filename>{filename}</filename>{size}{text}</annotation>"

    def _object(self, name: str, x1: str, y1: str, x2: str, y2: str) -> str:
        corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>"
        return f"<object><name>{name}</name><difficult>1</difficult><bndbox>{corners}</bndbox>{part}</object>"

    def write_voc(self, pages: dict[str, str], split: str = "train") -> None:
        self.write(f"ImageSets/Main/{split}.txt", "\n".join(pages) + "\n")
        for stem, text in pages.items():
            self.write(f"Annotations/{stem}.xml", text)

    def read_voc(self, **arguments: Any) -> Split:
        return read_splits("voc", str(self.root), self.VOC_FILES, **arguments)[0]["train"]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")
