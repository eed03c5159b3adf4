"""Open every image of a split once: existence, decoding, size and digest.

A picture that is damaged is dropped. One that decodes to pixels of which nobody knows the range stops the stage: such
pictures come by the data set, and a conversion saves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tqdm import tqdm

from pipeline.formats.picture_cache import Picture, PictureCache, State, state_of
from pipeline.formats.records import RawImage
from pipeline.formats.root import MISSING, THREADS, Root
from retinanet.data.pixels import PixelFormatError, measure

# Out of 65535; 12-bit images stored in 16 bits stay below it.
DARK = 2**12


def inspect_pictures(
    root: Root, images: list[RawImage], *, split: str, cache: PictureCache | None = None
) -> list[Picture]:
    """Return one result per image, in the same order; local pictures that the cache knows are not opened.

    Raises:
        ValueError: when pictures decode, but to pixels that cannot be scaled; it names the first.
    """
    states = {} if cache is None else _states(root, images)
    known = {} if cache is None else cache.known(states)
    own = [known.get(root.local_path(image.path) or "") for image in images]
    unknown = [image for image, picture in zip(images, own, strict=True) if picture is None]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(partial(_inspect, root), unknown)
        opened = list(tqdm(answers, desc=f"images of {split}", total=len(unknown), unit="img", disable=None))
    if cache is not None:
        paths = [root.local_path(image.path) or "" for image in unknown]
        cache.keep((path, states[path], one) for path, one in zip(paths, opened, strict=True) if path in states)
    rest = iter(opened)
    pictures = [next(rest) if picture is None else picture for picture in own]
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


def _states(root: Root, images: list[RawImage]) -> dict[str, State]:
    """Return the state of each local picture that is there, by its path on this machine."""
    paths = [path for image in images if (path := root.local_path(image.path)) is not None]
    return {path: state for path in paths if (state := state_of(path)) is not None}


def _inspect(root: Root, image: RawImage) -> Picture:
    try:
        data = root.read(image.path, named_by=image.file)
    except MISSING:
        return Picture((0, 0), "", "image is missing")
    try:
        found = measure(data)
    except PixelFormatError as error:
        return Picture((0, 0), "", refusal=str(error))
    except Exception as error:  # noqa: BLE001 - the parser of each format raises errors of its own
        return Picture((0, 0), "", f"image cannot be read ({error or type(error).__name__})")
    more = found._asdict()
    return Picture(more.pop("size"), hashlib.sha256(data).hexdigest(), **more)
