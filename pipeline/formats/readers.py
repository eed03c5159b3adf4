"""The table of formats: how each is read, and which files and folders the stage manifest compares for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.formats.coco import read_coco, recognise_coco
from pipeline.formats.csv_recognised import recognise_csv
from pipeline.formats.csv_tables import read_csv
from pipeline.formats.cvat import follow_cvat, read_cvat, recognise_cvat
from pipeline.formats.kitti import follow_kitti, read_kitti, recognise_kitti
from pipeline.formats.labelme import follow_labelme, read_labelme, recognise_labelme
from pipeline.formats.recognised import Recognised
from pipeline.formats.records import RawSplit, SplitFiles
from pipeline.formats.root import Root
from pipeline.formats.voc import follow_voc, read_voc, recognise_voc
from pipeline.formats.yolo import follow_yolo, read_yolo
from pipeline.formats.yolo_config import recognise_yolo

Followed = tuple[list[str], list[str]]


def follow_declared(root: Root, files: SplitFiles, *, split: str) -> Followed:
    """Return the annotation files and the folders that params.yaml itself names."""
    return [files.annotations], [files.images]


class Reader(NamedTuple):
    """A format."""

    read: Callable[..., RawSplit]
    """(root, files, split=) -> the content of a split's files, unchecked"""
    recognise: Callable[[Root, Sequence[str]], list[Recognised]]
    """(root, paths of all its files) -> every way in which the format can read them; empty if it cannot"""
    follow: Callable[..., Followed] = follow_declared
    """(root, files, split=) -> the annotation files and the folders that `read` reads, by their paths below the root"""
    asks_files: bool = False
    """whether `follow` reads annotation files to know the others"""


READERS: dict[str, Reader] = {
    "coco": Reader(read_coco, recognise_coco),
    "voc": Reader(read_voc, recognise_voc, follow_voc),
    "yolo": Reader(read_yolo, recognise_yolo, follow_yolo, asks_files=True),
    "labelme": Reader(read_labelme, recognise_labelme, follow_labelme),
    "csv": Reader(read_csv, recognise_csv),
    "kitti": Reader(read_kitti, recognise_kitti, follow_kitti),
    "cvat": Reader(read_cvat, recognise_cvat, follow_cvat),
}
