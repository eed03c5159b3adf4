"""Open every image of a split once: existence, decoding, size and digest.

A picture that is damaged is dropped. One that decodes to pixels of which nobody knows the range stops the stage: such
pictures come by the data set, and a conversion saves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tqdm import tqdm

from pipeline.formats.records import RawImage
from pipeline.formats.root import MISSING, THREADS, Root
from retinanet.data.pixels import PixelFormatError, measure

# Out of 65535; 12-bit images stored in 16 bits stay below it.
DARK = 2**12


class Picture(NamedTuple):
    """Properties of an image that decodes, or the error."""

    size: tuple[int, int]
    """width, height in px, with EXIF orientation applied"""
    sha256: str
    fault: str | None = None
    refusal: str | None = None
    """its pixel format, if it cannot be scaled to 0..255"""
    brightest: int | None = None
    """maximum of a 16-bit greyscale image"""
    kind: str = ""
    """what it is, if not 8-bit RGB or grey"""
    thumbnail: bytes = b""
    """rows of THUMBNAIL x THUMBNAIL grey levels"""


def inspect_pictures(root: Root, images: list[RawImage], *, split: str) -> list[Picture]:
    """Return one result per image, in the same order.

    Raises:
        ValueError: when pictures decode, but to pixels that cannot be scaled; it names the first.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(partial(_inspect, root), images)
        pictures = list(tqdm(answers, desc=f"images of {split}", total=len(images), unit="img", disable=None))
    refused = [(image, picture) for image, picture in zip(images, pictures, strict=True) if picture.refusal is not None]
    if refused:
        image, picture = refused[0]
        others = f"; the same applies to {len(refused) - 1} more of {split}" if len(refused) > 1 else ""
        raise ValueError(f"{root.shown(image.path)} cannot be read: {picture.refusal}{others}")
    return pictures


def notes_on_pictures(pictures: Sequence[Picture]) -> list[str]:
    """Return a note if all 16-bit images are so dark that they appear to have fewer bits."""
    brightest = [picture.brightest for picture in pictures if picture.brightest is not None]
    if not brightest or max(brightest) >= DARK:
        return []
    return [
        f"its {len(brightest)} 16-bit images have no value above {max(brightest)} of 65535 and come out almost "
        "black; if they hold 12 bits or fewer, scale them to the full range first"
    ]


def _inspect(root: Root, image: RawImage) -> Picture:
    try:
        data = root.read(image.path, named_by=image.file)
    except MISSING:
        return Picture((0, 0), "", "image is missing")
    try:
        size, brightest, kind, thumbnail = measure(data)
    except PixelFormatError as error:
        return Picture((0, 0), "", refusal=str(error))
    except Exception as error:  # noqa: BLE001 - the parser of each format raises errors of its own
        return Picture((0, 0), "", f"image cannot be read ({error or type(error).__name__})")
    digest = hashlib.sha256(data).hexdigest()
    return Picture(size, digest, brightest=brightest, kind=kind, thumbnail=thumbnail)
