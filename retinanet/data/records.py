"""The images of a prepared file, or their tiles, with their ground truth, packed into a few tensors.

Loader processes get these tensors through shared memory: one copy for all, whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import torch
from torch import Tensor

from retinanet.anchors.boxes import box_xywh_to_xyxy


@dataclass(frozen=True)
class Record:
    """One image of a prepared file, or a tile of one, with its ground truth without crowds.

    Attributes:
        path: of the picture, relative to the root of the split.
        size: height and width, px.
        boxes: [M, 4] float32 px in the image.
        labels: [M] int64.
        sha256: digest of the picture's bytes; empty if the file has none.
        corner: top and left of a tile in its picture, px.
    """

    image_id: int
    path: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    sha256: str = ""
    corner: tuple[int, int] = (0, 0)


class Records(Sequence[Record]):
    """All images of a prepared file, in its order; or their tiles, see tiles.cut_records.

    Args:
        content: of a file data/prepared/*.json.

    Attributes:
        image_ids: [N] int64.
        sizes: [N, 2] int64 height and width, px.
        boxes: [sum of M, 4] float32 px.
        labels: [sum of M] int64.
        first_box: [N + 1] int64, where the boxes of each image begin.
        pictures: [N] int64, the position in the file of the picture that each image shows.
        corners: [N, 2] int64 top and left in the picture, px.
        texts: uint8, the paths and digests of the pictures as UTF-8; first_text: int64, where each begins, and the end.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
        images = content["images"]
        by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd", 0):
                by_image[annotation["image_id"]].append(annotation)
        truths = [truth for image in images for truth in by_image[image["id"]]]
        texts = [text.encode() for image in images for text in (image["file_name"], image.get("sha256", ""))]
        boxes = torch.tensor([truth["bbox"] for truth in truths], dtype=torch.float32).reshape(-1, 4)
        self.image_ids = torch.tensor([image["id"] for image in images], dtype=torch.int64)
        self.sizes = torch.tensor([[image["height"], image["width"]] for image in images]).reshape(-1, 2)
        self.boxes = box_xywh_to_xyxy(boxes)
        self.labels = torch.tensor([label_of[truth["category_id"]] for truth in truths], dtype=torch.int64)
        self.first_box = first_of(len(by_image[image["id"]]) for image in images)
        self.pictures = torch.arange(len(images))
        self.corners = torch.zeros(len(images), 2, dtype=torch.int64)
        self.texts = torch.frombuffer(bytearray(b"".join(texts) or b" "), dtype=torch.uint8)
        self.first_text = first_of(len(text) for text in texts)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """One image, or several; boxes and labels are views."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # raises IndexError
        first, last = self.first_box[index : index + 2].tolist()
        picture = int(self.pictures[index])
        path, digest, end = self.first_text[2 * picture : 2 * picture + 3].tolist()
        top, left = self.corners[index].tolist()
        return Record(
            image_id=int(self.image_ids[index]),
            path=self._text(path, digest),
            size=self.size(index),
            boxes=self.boxes[first:last],
            labels=self.labels[first:last],
            sha256=self._text(digest, end),
            corner=(top, left),
        )

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of one image, px."""
        height, width = self.sizes[index].tolist()
        return height, width

    def _text(self, first: int, end: int) -> str:
        return self.texts[first:end].numpy().tobytes().decode()


def first_of(counts: Iterator[int]) -> Tensor:
    """Where each of several groups begins, and the end of the last: [groups + 1] int64."""
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int64)
