"""Detections drawn into their picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes

from retinanet.inference.postprocess import Detections

# Of Okabe and Ito: told apart by everyone.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")

LONGEST_JPEG = 65500  # px, of a side (libjpeg's JPEG_MAX_DIMENSION)


def draw(picture: Tensor, detections: Detections, class_names: Sequence[str]) -> Tensor:
    """Draw boxes with class and score, in the colour of the class.

    Args:
        picture: [3, H, W] uint8 RGB.
        detections: in px of the picture.
    """
    if not len(detections.scores):
        return picture
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    colours = [COLOURS[label % len(COLOURS)] for label in labels]
    corners, ends = detections.boxes[:, :2], detections.boxes[:, 2:]
    boxes = torch.cat([corners, torch.maximum(ends, corners + 1)], dim=1)  # Pillow needs sides of at least 1 px
    side = min(picture.shape[1:])
    drawn: Tensor = draw_bounding_boxes(
        picture.contiguous(),
        boxes,
        texts,
        colours,
        width=max(2, round(side / 250)),
        font=find_font(),
        font_size=max(10, round(side / 50)),
        label_colors="black",
        fill_labels=True,
    )
    return drawn


def encode_jpeg(picture: Tensor) -> bytes:
    """Encode a picture [3, H, W] uint8 RGB as a JPEG; one with a longer side than a JPEG may have is made smaller."""
    image, file = to_pil_image(picture), io.BytesIO()
    if max(image.size) > LONGEST_JPEG:
        image.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def find_font() -> str:
    """The file of DejaVu Sans, which matplotlib brings; torchvision's own font is lost in large pictures."""
    return str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
