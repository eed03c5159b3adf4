"""Small pictures with their boxes, as data URIs that a page holds itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from pipeline.formats.records import Box
from pipeline.formats.root import Root
from retinanet.data.pixels import open_picture, to_rgb

SIDE = 190  # px, the longer side
CHOSEN, OTHER = "#ff2d95", "#ffffff"


class Thumbnail(NamedTuple):
    """A small picture: `uri` is a JPEG in base64."""

    uri: str
    title: str
    width: int
    height: int


def draw_thumbnail(root: Root, path: str, chosen: Sequence[Box], others: Sequence[Box] = ()) -> Thumbnail | None:
    """Draw boxes (x, y, w, h in px of the picture) over a picture; None if it cannot be read."""
    try:
        image, scale = _read_small(root.read(path, named_by="the page of the data"))
    except Exception:  # noqa: BLE001 - the parser of each format raises errors of its own; such pictures are findings
        return None
    draw = ImageDraw.Draw(image)
    for boxes, colour, width in ((others, OTHER, 1), (chosen, CHOSEN, 2)):
        for x, y, w, h in boxes:
            left, top, right, bottom = (side * scale for side in (x, y, x + w, y + h))
            corners = (left, top, max(left, right - 1), max(top, bottom - 1))
            draw.rectangle(corners, outline=colour, width=width)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Thumbnail(uri, path, image.width, image.height)


def _read_small(content: bytes) -> tuple[Image.Image, float]:
    """Decode at a small size, upright; the second value is the new side of a px of the picture."""
    image = open_picture(content)
    longest = max(image.size)
    image.draft(None, (SIDE * image.width // longest or 1, SIDE * image.height // longest or 1))
    ImageOps.exif_transpose(image, in_place=True)
    small = to_rgb(image)
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return small, max(small.size) / longest
