"""A prepared split: the records of a COCO file, and their pictures."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from retinanet.data.pictures import read_picture
from retinanet.data.records import Records
from retinanet.data.tiles import Tiles, cut_records


class Split:
    """A prepared split.

    Args:
        content: of a file data/prepared/*.json.
        root: folder or URL of the pictures; None: as in the file.
        cache_folder: for pictures of a URL, on the disk of this node.
        keep_bytes: size of the in-memory cache of decoded pictures; the first pictures of the file that fit are cached.

    Attributes:
        pictures: their records.
        records: the images that are shown: the pictures, or their tiles.
        tiles: how the pictures are cut; None: they are not.
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
        self.pictures = self.records = Records(content)
        self.tiles: Tiles | None = None
        self.root = str(content["info"]["root"]) if root is None else root
        self._cache_folder = cache_folder
        taken = [0, *accumulate(3 * height * width for height, width in self.pictures.sizes.tolist())]
        self.num_kept = bisect_right(taken, keep_bytes) - 1
        self.kept_bytes = taken[self.num_kept]
        self._decoded: dict[int, tuple[int, Tensor]] = {}  # with the reduction that was asked for
        self._last: tuple[int, int, Tensor] | None = None  # picture and reduction; its tiles mostly follow each other

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which decodes what it needs itself."""
        return self.__dict__ | {"_decoded": {}, "_last": None}

    def tiled(self, tiles: Tiles | None) -> Split:
        """The split with the tiles of its pictures as records; both share the decoded pictures. None: itself."""
        if tiles == self.tiles:
            return self
        assert self.tiles is None and tiles is not None, "a tile is not cut again"
        split = Split.__new__(Split)
        split.__dict__ = self.__dict__ | {"tiles": tiles, "records": cut_records(self.pictures, tiles)}
        return split

    def picture(self, index: int, reduction: int = 1) -> Tensor:
        """[3, H, W] uint8 RGB of one record; of a JPEG the sides divided by `reduction`, see Transforms.reduction.

        A tile is a view of its picture, which is decoded whole.

        Raises:
            ValueError: naming the file, when it cannot be read or has another size than its record.
        """
        number, (height, width) = int(self.records.pictures[index]), self.records.size(index)
        if (height, width) == self.pictures.size(number):
            return self._decode(number, reduction)
        top, left = self.records.corners[index].tolist()
        return self._decode(number, 1)[:, top : top + height, left : left + width]

    def _decode(self, number: int, reduction: int) -> Tensor:
        """A picture of the file, from the cache where it is there."""
        asked, image = self._decoded.get(number, (0, None))
        if image is not None and asked == reduction:
            return image
        if self._last is not None and self._last[:2] == (number, reduction):
            return self._last[2]
        record = self.pictures[number]
        location = f"{self.root.rstrip('/')}/{record.path}"
        folder = self._cache_folder
        image = read_picture(location, reduction=reduction, cache_folder=folder, sha256=record.sha256)
        height, width = record.size
        if tuple(image.shape[1:]) not in (record.size, (height // reduction, width // reduction)):
            raise ValueError(
                f"{location} is {tuple(image.shape[1:])} px (height, width), expected {record.size} as in its record; "
                "run prepare again"
            )
        if number < self.num_kept:
            self._decoded[number] = reduction, image
        elif self.tiles is not None:
            self._last = number, reduction, image
        return image


def part_of(content: Mapping[str, Any], image_ids: Collection[int]) -> dict[str, Any]:
    """The content of a prepared file with these images alone, in its order; images and annotations are shared."""
    ids = set(image_ids)
    images = [image for image in content["images"] if image["id"] in ids]
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    return {**content, "images": images, "annotations": annotations}


def load_split(
    path: str | Path, *, root: str | None = None, cache_folder: str | None = None, keep_bytes: int = 0
) -> Split:
    """Read a prepared file; arguments as of Split."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return Split(content, root=root, cache_folder=cache_folder, keep_bytes=keep_bytes)
