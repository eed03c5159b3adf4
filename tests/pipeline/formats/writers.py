"""One small data set in every format: what each would write of the same images, boxes and classes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from pipeline.formats import SplitFiles

Box = tuple[float, float, float, float]


class Picture(NamedTuple):
    """An image with its objects.

    Attributes:
        boxes: class, and corners x1, y1, x2, y2 in px.
    """

    name: str
    size: tuple[int, int]
    boxes: Sequence[tuple[str, Box]]


class Written(NamedTuple):
    """A data set in one format: its files by path, and those of each split."""

    files: dict[str, bytes]
    splits: dict[str, SplitFiles]


def png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", picture.size, sum(map(ord, picture.name)) % 256).save(buffer, format="PNG")
    return buffer.getvalue()


def write_coco(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    images = [
        {"id": number, "file_name": picture.name, "width": picture.size[0], "height": picture.size[1]}
        for number, picture in enumerate(pictures)
    ]
    boxes = [
        {"image_id": number, "category_id": classes.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for number, picture in enumerate(pictures)
        for name, (x1, y1, x2, y2) in picture.boxes
    ]
    content = {
        "info": {},
        "images": images,
        "annotations": [box | {"id": number} for number, box in enumerate(boxes, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
    }
    files = {f"images/{picture.name}": png(picture) for picture in pictures}
    return Written(files | {"train.json": json.dumps(content).encode()}, {"train": SplitFiles("train.json", "images")})


def write_voc(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    """The layout of ImageSets; corners are written in full."""
    files = {f"JPEGImages/{picture.name}": png(picture) for picture in pictures}
    files |= {f"Annotations/{stem(picture)}.xml": _voc_page(picture) for picture in pictures}
    files["ImageSets/Main/train.txt"] = "".join(f"{stem(picture)}\n" for picture in pictures).encode()
    return Written(files, {"train": SplitFiles("ImageSets/Main/train.txt", "JPEGImages")})


def write_voc_folder(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    """The layout of Roboflow: images and XML files in one folder."""
    files = {f"train/{picture.name}": png(picture) for picture in pictures}
    files |= {f"train/{stem(picture)}.xml": _voc_page(picture) for picture in pictures}
    return Written(files, {"train": SplitFiles("train", "")})


def _voc_page(picture: Picture) -> bytes:
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1!r}</xmin><ymin>{y1!r}</ymin>"
        f"<xmax>{x2!r}</xmax><ymax>{y2!r}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in picture.boxes
    )
    size = f"<size><width>{picture.size[0]}</width><height>{picture.size[1]}</height><depth>1</depth></size>"
    return f"<annotation><filename>{picture.name}</filename>{size}{objects}</annotation>".encode()


def write_yolo(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    """Six decimals, as Ultralytics and Roboflow write."""
    files = {f"images/train/{picture.name}": png(picture) for picture in pictures}
    files |= {f"labels/train/{stem(picture)}.txt": _yolo_rows(picture, classes).encode() for picture in pictures}
    files["data.yaml"] = f"train: images/train\nnames: [{', '.join(classes)}]\n".encode()
    return Written(files, {"train": SplitFiles("data.yaml", "")})


def _yolo_rows(picture: Picture, classes: Sequence[str]) -> str:
    width, height = picture.size
    rows = [
        (classes.index(name), (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        for name, (x1, y1, x2, y2) in picture.boxes
    ]
    return "".join(f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for label, x, y, w, h in rows)


def write_labelme(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    files = {f"train/{picture.name}": png(picture) for picture in pictures}
    files |= {f"train/{stem(picture)}.json": _labelme_page(picture) for picture in pictures}
    return Written(files, {"train": SplitFiles("train", "")})


def _labelme_page(picture: Picture) -> bytes:
    shapes = [
        {"label": name, "points": [[x2, y1], [x1, y2]], "shape_type": "rectangle", "group_id": None, "flags": {}}
        for name, (x1, y1, x2, y2) in picture.boxes
    ]
    width, height = picture.size
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture.name, "imageData": None}
    return json.dumps(content | {"imageHeight": height, "imageWidth": width}).encode()


def write_cvat(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    """Two decimals, as CVAT writes."""
    labels = "".join(f"<label><name>{name}</name><type>rectangle</type></label>" for name in classes)
    images = "".join(_cvat_image(number, picture) for number, picture in enumerate(pictures))
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    files = {f"images/{picture.name}": png(picture) for picture in pictures}
    files["annotations.xml"] = f"<annotations><version>1.1</version>{meta}{images}</annotations>".encode()
    return Written(files, {"train": SplitFiles("annotations.xml", "")})


def _cvat_image(number: int, picture: Picture) -> str:
    boxes = "".join(
        f'<box label="{name}" occluded="0" xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}" z_order="0"/>'
        for name, (x1, y1, x2, y2) in picture.boxes
    )
    width, height = picture.size
    return f'<image id="{number}" name="{picture.name}" width="{width}" height="{height}">{boxes}</image>'


def write_csv(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    """The rows of keras-retinanet, which can name an image without objects; numbers are written in full."""
    rows = [
        f"{picture.name},{x1!r},{y1!r},{x2!r},{y2!r},{name}\n"
        for picture in pictures
        for name, (x1, y1, x2, y2) in picture.boxes
    ]
    rows += [f"{picture.name},,,,,\n" for picture in pictures if not picture.boxes]
    files = {f"images/{picture.name}": png(picture) for picture in pictures}
    return Written(files | {"train.csv": "".join(rows).encode()}, {"train": SplitFiles("train.csv", "images")})


def write_kitti(pictures: Sequence[Picture], classes: Sequence[str]) -> Written:
    """Two decimals, as KITTI has."""
    files = {f"train/image_2/{picture.name}": png(picture) for picture in pictures}
    files |= {f"train/label_2/{stem(picture)}.txt": _kitti_rows(picture).encode() for picture in pictures}
    return Written(files, {"train": SplitFiles("train/label_2", "train/image_2")})


def _kitti_rows(picture: Picture) -> str:
    return "".join(
        f"{name} 0.00 0 -1.58 {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
        for name, (x1, y1, x2, y2) in picture.boxes
    )


def stem(picture: Picture) -> str:
    """The name of an image without its suffix."""
    return picture.name.rpartition(".")[0]


WRITERS: Mapping[str, tuple[str, Callable[[Sequence[Picture], Sequence[str]], Written]]] = {
    "coco": ("coco", write_coco),
    "voc": ("voc", write_voc),
    "voc, a folder": ("voc", write_voc_folder),
    "yolo": ("yolo", write_yolo),
    "csv": ("csv", write_csv),
    "kitti": ("kitti", write_kitti),
    "labelme": ("labelme", write_labelme),
    "cvat": ("cvat", write_cvat),
}
"""By name: a key of READERS, and the function that writes (images, classes) in it."""
