"""Pictures, read from files and URLs.

A picture is [3, H, W] uint8 RGB, upright, and lies in memory as decoders give it, the three colours of a pixel side by
side (channels_last): resizing reads it so, and in any other layout takes three times as long.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec
import torch
from torch import Tensor

from retinanet.data.pixels import decode_rgb


def read_picture(location: str, *, cache_folder: str | None = None, sha256: str = "") -> Tensor:
    """[3, H, W] uint8 RGB of a picture at a path or a URL, upright as its EXIF data say.

    Args:
        cache_folder, sha256: as of read_bytes.

    Raises:
        ValueError: naming the picture.
    """
    try:
        return decode(read_bytes(location, cache_folder=cache_folder, sha256=sha256))
    except Exception as error:  # every format of Pillow and every store of fsspec raises its own
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{location} cannot be read as a picture ({reason}); run prepare again to find such files"
        ) from error


def decode(content: bytes) -> Tensor:
    """[3, H, W] uint8 RGB, upright, of what a file holds."""
    return torch.from_numpy(decode_rgb(content)).permute(2, 0, 1)


def read_bytes(location: str, *, cache_folder: str | None = None, sha256: str = "") -> bytes:
    """What a file at a path or a URL holds; of a URL a copy is kept in cache_folder.

    A copy appears under its name only when it is whole, because the processes of a node share the folder, and is named
    after the URL and the digest that the record expects, because what lies at a URL may change.
    """
    if "://" not in location:
        return Path(location).expanduser().read_bytes()
    if cache_folder is None:
        with fsspec.open(location) as file:
            content: bytes = file.read()
        return content
    kept = Path(cache_folder).expanduser() / hashlib.sha256(f"{location} {sha256}".encode()).hexdigest()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
        temporary.write_bytes(read_bytes(location))
        temporary.replace(kept)
    return kept.read_bytes()
