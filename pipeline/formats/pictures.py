"""Opens every picture of a split once: is it there, does it decode, how large is it, what is its digest?"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from pipeline.formats.records import RawImage
from pipeline.formats.root import MISSING, THREADS, Root

# EXIF: a camera held upright stores the picture lying, under one of these orientations.
ORIENTATION_TAG = 0x0112
LYING = (5, 6, 7, 8)


class Picture(NamedTuple):
    """A picture that decodes, or the fault that keeps it out."""

    size: tuple[int, int]
    """width, height in px as the picture is seen, EXIF orientation applied"""
    sha256: str
    fault: str | None = None


def inspect_pictures(root: Root, images: list[RawImage], *, split: str) -> list[Picture]:
    """One answer per image, in the same order."""
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(partial(_inspect, root), images)
        return list(tqdm(answers, desc=f"pictures of {split}", total=len(images), unit="img", disable=None))


def _inspect(root: Root, image: RawImage) -> Picture:
    try:
        data = root.read(image.path, named_by=image.file)
    except MISSING:
        return Picture((0, 0), "", "picture is missing")
    try:
        size = _decode(data)
    except Exception as error:  # noqa: BLE001 - each of Pillow's formats raises what its own parser raises
        return Picture((0, 0), "", f"picture cannot be read ({error or type(error).__name__})")
    return Picture(size, hashlib.sha256(data).hexdigest())


def _decode(data: bytes) -> tuple[int, int]:
    """Width and height of a picture that decodes to its end; opening alone does not notice a truncated file."""
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        lies = picture.getexif().get(ORIENTATION_TAG) in LYING
        # A JPEG may be decoded at an eighth of its size, which reads every byte but is several times faster.
        picture.draft(None, (max(1, width // 8), max(1, height // 8)))
        picture.load()
    return (height, width) if lies else (width, height)
