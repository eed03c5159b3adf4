"""A prepared split: the records of a COCO file, and their pictures."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retinanet.anchors.boxes import box_xywh_to_xyxy
from retinanet.data.pictures import read_picture


@dataclass(frozen=True)
class Record:
    """One image of a prepared file, with its ground truth without crowds.

    Attributes:
        path: of the picture, relative to the root of the split.
        size: height and width, px.
        boxes: [M, 4] float32 px in the picture.
        labels: [M] int64.
        sha256: digest of the picture's bytes; empty if the file has none.
    """

    image_id: int
    path: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    sha256: str = ""


class Split:
    """A prepared split.

    Args:
        content: of a file data/prepared/*.json.
        root: folder or URL of the pictures; None: as in the file.
        cache_folder: for pictures of a URL, on the disk of this node.
        keep_bytes: size of the in-memory cache of decoded pictures; the first pictures of the file that fit are cached.

    Attributes:
        num_kept: number of cached pictures.
        kept_bytes: their size.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        *,
        root: str | None = None,
        cache_folder: str | None = None,
        keep_bytes: int = 0,
    ) -> None:
        self.class_names = [category["name"] for category in content["categories"]]
        self.records = read_records(content)
        self.root = str(content["info"]["root"]) if root is None else root
        self._cache_folder = cache_folder
        taken = [0, *accumulate(3 * height * width for height, width in (record.size for record in self.records))]
        self.num_kept = bisect_right(taken, keep_bytes) - 1
        self.kept_bytes = taken[self.num_kept]
        self._decoded: dict[int, Tensor] = {}

    def picture(self, index: int) -> Tensor:
        """[3, H, W] uint8 RGB of one record.

        Raises:
            ValueError: naming the file, when it cannot be read or has another size than its record.
        """
        if index in self._decoded:
            return self._decoded[index]
        record = self.records[index]
        location = f"{self.root.rstrip('/')}/{record.path}"
        image = read_picture(location, cache_folder=self._cache_folder, sha256=record.sha256)
        if image.shape[1:] != record.size:
            raise ValueError(
                f"{location} is {tuple(image.shape[1:])} px (height, width), expected {record.size} as in its record; "
                "run prepare again"
            )
        if index < self.num_kept:
            self._decoded[index] = image
        return image


def load_split(
    path: str | Path, *, root: str | None = None, cache_folder: str | None = None, keep_bytes: int = 0
) -> Split:
    """Read a prepared file; arguments as of Split."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return Split(content, root=root, cache_folder=cache_folder, keep_bytes=keep_bytes)


def read_records(content: Mapping[str, Any]) -> list[Record]:
    """The images of a prepared file in its order, with boxes as corners and labels as indices of categories."""
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd", 0):
            by_image[annotation["image_id"]].append(annotation)
    records = []
    for image in content["images"]:
        truths = by_image[image["id"]]
        boxes = torch.tensor([truth["bbox"] for truth in truths], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([label_of[truth["category_id"]] for truth in truths], dtype=torch.int64)
        size = (image["height"], image["width"])
        sha256 = image.get("sha256", "")
        records.append(Record(image["id"], image["file_name"], size, box_xywh_to_xyxy(boxes), labels, sha256))
    return records
