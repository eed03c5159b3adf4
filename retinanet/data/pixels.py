"""What a picture file holds, as 8-bit RGB: the one module that decodes, for data, training, detection and drawings.

Pixels are upright as the EXIF data say. Of several frames (GIF, APNG, TIFF) the first is taken; transparency is left
out, so colours are those that the file stores. Of 16 bits the upper 8 stay, as libpng and torchvision's to_dtype scale:
0..65535 becomes 0..255, in grey as in colour. Pixels of 32 bits have no known black and white and are refused.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# EXIF: a camera held upright stores the picture lying, under one of these orientations.
ORIENTATION_TAG = 0x0112
LYING = (5, 6, 7, 8)

REFUSED = {"F": "floats of 32 bits", "I": "whole numbers of 32 bits"}
"""Modes of Pillow whose range nothing states; it cuts them at 255 itself."""


class PixelFormatError(ValueError):
    """A picture that decodes, but whose values cannot be scaled to 0..255."""


class Measure(NamedTuple):
    """What is known of a picture that decodes to its end."""

    size: tuple[int, int]
    """width, height in px, upright"""
    brightest: int | None
    """the largest value where it has one channel of 16 bits, of 65535"""


def decode_rgb(content: bytes) -> NDArray[np.uint8]:
    """[H, W, 3] RGB of what a file holds.

    Raises:
        PixelFormatError: for pixels of 32 bits.
    """
    image = open_picture(content)
    ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies what stands upright too
    return np.array(to_rgb(image))


def measure(content: bytes) -> Measure:
    """Decode a file to its end, faster than decode_rgb; opening alone does not notice a truncated file.

    Raises:
        PixelFormatError: as decode_rgb.
    """
    with open_picture(content) as image:
        width, height = image.size
        # A JPEG may be decoded at an eighth of its size, which reads every byte but is several times faster.
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        to_rgb(image)
        # Once it is loaded: a TIFF has then turned itself and lies no more, and a PNG may say it after its pixels.
        lies = image.getexif().get(ORIENTATION_TAG) in LYING
        brightest = int(np.asarray(image).max()) if has_16_bits(image) else None
    return Measure((height, width) if lies else (width, height), brightest)


def open_picture(content: bytes) -> Image.Image:
    """The picture of a file, not decoded yet.

    Raises:
        UnidentifiedImageError: always with the same words; Pillow's own name an address in memory.
    """
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise UnidentifiedImageError(f"none of Pillow's picture formats, {len(content)} bytes") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in mode RGB; the very same where it is.

    Raises:
        PixelFormatError: for pixels of 32 bits.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if has_16_bits(image):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in REFUSED:
        raise PixelFormatError(
            f"its pixels are {REFUSED[image.mode]} (mode {image.mode}), of which nobody knows what is black and white; "
            "scale them to 8 or 16 bits"
        )
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow warns
    return image.convert("RGB")


def has_16_bits(image: Image.Image) -> bool:
    """Whether a picture has one channel of 16 bits. Pillow holds a PGM's in 32, scaled to 0..65535."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
