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
    """One image of the file: where its picture is, its size in px, its truths without crowds.

    Attributes:
        boxes: [M, 4] float32 px in the picture.
        labels: [M] int64.
        sha256: digest of the picture's bytes, where the file says it.
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
        content: what data/prepared/*.json holds.
        root: folder or URL of the pictures; None: the file's own.
        cache_folder: where pictures of a URL are kept on this node's disk.
        keep_bytes: the first pictures of the file that fit into so many bytes stay in memory once decoded.

    Attributes:
        num_kept: how many these are.
        kept_bytes: what they take.
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
                f"{location} is {tuple(image.shape[1:])} px (height, width), its record says {record.size}; "
                "run prepare again"
            )
        if index < self.num_kept:
            self._decoded[index] = image
        return image


def load_split(path: str | Path, **options: Any) -> Split:
    """Read a prepared file; options as of Split."""
    return Split(json.loads(Path(path).read_text(encoding="utf-8")), **options)


def read_records(content: Mapping[str, Any]) -> list[Record]:
    """The images of a prepared file in its order, with truths as corners and labels as positions in categories."""
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
