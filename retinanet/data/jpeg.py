"""Decoding of JPEGs by simplejpeg, where it is installed: the pixels of Pillow, in less time.

Both call libjpeg-turbo, but Pillow stores a pixel in four bytes, which are copied again to three.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

try:
    from simplejpeg import decode_jpeg
except ImportError:  # Pillow decodes
    decode_jpeg = None

# Of several pictures in a file (MPO, of stereo cameras and telephones) the first counts, as in Pillow.
FORMATS = ("JPEG", "MPO")


def decode_turbo(content: bytes, image: Image.Image, reduction: int = 1) -> NDArray[np.uint8] | None:
    """Decode the content of a JPEG: [H, W, 3] RGB, upright as of its EXIF data.

    Args:
        image: the same picture, opened but not loaded.
        reduction: 1, 2, 4 or 8, which divides both sides.

    Returns:
        None for what Pillow has to decode: other formats and colour spaces, and damaged files, of which it says more.
    """
    if decode_jpeg is None or image.format not in FORMATS or image.mode not in ("RGB", "L"):
        return None
    width, height = (side // reduction for side in image.size)
    try:
        pixels: NDArray[np.uint8] = decode_jpeg(content, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    return turn(pixels, image.getexif().get(ExifTags.Base.Orientation, 1)) if len(pixels) == height else None


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels [H, W, 3] upright from an EXIF orientation; 1 and unknown ones leave them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])
