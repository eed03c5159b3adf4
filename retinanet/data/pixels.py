"""Decoding of picture files to 8-bit RGB; data preparation, training, detection and drawing all use this module.

Pixels are upright as of the EXIF data. Of several frames (GIF, APNG, TIFF) the first is used; transparency is dropped,
so colours are those stored in the file. 16-bit values keep their upper 8 bits, as in libpng and torchvision's to_dtype:
0..65535 becomes 0..255, in grey and in colour. Pixels of 32 bits have no defined black and white and are refused.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from retinanet.data.jpeg import decode_turbo

# EXIF orientations that swap width and height, as of a camera held upright.
ORIENTATION_TAG = 0x0112
TRANSPOSED = (5, 6, 7, 8)

# Sides of the small picture of a Measure, px.
THUMBNAIL = 32

GREY = ("1", "L", "LA", "La")
"""Modes of Pillow in greyscale, but for those of 16 bits."""
REFUSED = {"F": "32-bit floats", "I": "32-bit integers"}
"""Modes of Pillow without a defined range; Pillow itself would clip them at 255."""


class PixelFormatError(ValueError):
    """A picture that decodes, but whose values cannot be scaled to 0..255."""


class Measure(NamedTuple):
    """Size, brightness and a small copy of a picture that decodes completely."""

    size: tuple[int, int]
    """width, height in px, upright"""
    brightest: int | None
    """the largest value where it has one channel of 16 bits, of 65535"""
    kind: str
    """what it is, if not 8-bit RGB or grey; see pixel_format"""
    is_grey: bool
    """whether it is stored in greyscale, of 1, 8 or 16 bits"""
    orientation: int
    """of its EXIF data, 1 (upright) to 8"""
    thumbnail: bytes
    """THUMBNAIL rows of THUMBNAIL grey levels, each the mean of its part of the picture as stored, before EXIF"""


def decode_rgb(content: bytes, reduction: int = 1, formats: tuple[str, ...] | None = None) -> NDArray[np.uint8]:
    """Decode the content of a file: [H, W, 3] RGB.

    Args:
        reduction: 2, 4 or 8 decodes a JPEG at this fraction of its size, by its coefficients of low frequency: several
            times faster. It must divide both sides. Other formats are decoded whole.
        formats: as of open_picture.

    Raises:
        PixelFormatError: for pixels of 32 bits.
    """
    image = open_picture(content, formats)
    pixels = decode_turbo(content, image, reduction)
    if pixels is not None:
        return pixels
    if reduction > 1:
        image.draft(None, (image.size[0] // reduction, image.size[1] // reduction))
    ImageOps.exif_transpose(image, in_place=True)  # not in place it copies upright pictures too
    return np.array(to_rgb(image))


def measure(content: bytes) -> Measure:
    """Decode a file completely, faster than decode_rgb; opening alone does not detect a truncated file.

    Raises:
        PixelFormatError: as decode_rgb.
    """
    with open_picture(content) as image:
        width, height = image.size
        orientations = [image.getexif().get(ORIENTATION_TAG, 1)]
        # A JPEG may be decoded at an eighth of its size, which reads every byte but is several times faster.
        image.draft(None, (max(2 * THUMBNAIL, width // 8), max(2 * THUMBNAIL, height // 8)))
        grey = to_rgb(image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        # Again after loading: Pillow transposes a TIFF then, and a PNG may have its EXIF data after the pixels.
        orientations.append(image.getexif().get(ORIENTATION_TAG, 1))
        brightest = int(np.asarray(image).max()) if has_16_bits(image) else None
        kind, is_grey = pixel_format(image), image.mode in GREY or has_16_bits(image)
    return Measure(
        size=(height, width) if orientations[-1] in TRANSPOSED else (width, height),
        brightest=brightest,
        kind=kind,
        is_grey=is_grey,
        orientation=next((int(one) for one in orientations if one in range(2, 9)), 1),
        thumbnail=grey.tobytes(),
    )


def open_picture(content: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open the picture of a file without decoding it.

    Args:
        formats: names of Pillow's that are tried; None for all.

    Raises:
        UnidentifiedImageError: with a constant message; Pillow's own contains a memory address.
    """
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError:
        raise UnidentifiedImageError(f"none of Pillow's image formats, {len(content)} bytes") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to mode RGB; one that is RGB is returned itself.

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
            f"its pixels are {REFUSED[image.mode]} (mode {image.mode}), which define no black and white; "
            "scale them to 8 or 16 bits"
        )
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours; Pillow warns about a direct conversion to RGB
    return image.convert("RGB")


def pixel_format(image: Image.Image) -> str:
    """Say what a picture is that decoding converts: animated, 16 bits, CMYK, .. ; empty for 8-bit RGB and grey."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        return f"{frames} frames, of which the first is used"
    if has_16_bits(image):
        return "16 bits per channel"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return "transparency, which is dropped"
    return "" if image.mode in ("RGB", "L", "1") else f"mode {image.mode}, converted to RGB"


def has_16_bits(image: Image.Image) -> bool:
    """Whether a picture has one channel of 16 bits. Pillow holds a PGM's in 32, scaled to 0..65535."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
