"""Reading pictures from files and URLs.

A picture is [3, H, W] uint8 RGB, upright, in the memory layout of the decoders (channels_last), in which resizing is
three times as fast as in any other.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec
import torch
from torch import Tensor

from retinanet.data.pixels import decode_rgb


def read_picture(location: str, *, reduction: int = 1, cache_folder: str | None = None, sha256: str = "") -> Tensor:
    """Read a picture at a path or a URL: [3, H, W] uint8 RGB, upright as of its EXIF data.

    Args:
        reduction: as of decode_rgb.
        cache_folder, sha256: as of read_bytes.

    Raises:
        ValueError: naming the picture.
    """
    try:
        return decode(read_bytes(location, cache_folder=cache_folder, sha256=sha256), reduction)
    except Exception as error:  # every format of Pillow and every store of fsspec raises its own
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{location} cannot be read as an image ({reason}); run prepare again, which checks every file"
        ) from error


def decode(content: bytes, reduction: int = 1, formats: tuple[str, ...] | None = None) -> Tensor:
    """Decode the content of a file: [3, H, W] uint8 RGB, upright; reduction and formats as of decode_rgb."""
    return torch.from_numpy(decode_rgb(content, reduction, formats)).permute(2, 0, 1)


def read_bytes(location: str, *, cache_folder: str | None = None, sha256: str = "") -> bytes:
    """Read a file at a path or a URL; files of a URL are cached in cache_folder.

    A cached file appears under its name only when it is complete, because the processes of a node share the folder. Its
    name is a digest of the URL and of the record's digest, because the content of a URL may change.
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
