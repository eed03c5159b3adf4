"""Pictures with something to see at every scale, which no two seeds share; and copies of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance


def texture(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """A grey picture of random cells, smoothed."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 12), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


# What people do to pictures before they share them.
COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "the same": encode,
    "JPEG": lambda image: encode(image, "JPEG", quality=50),
    "half the size": lambda image: encode(image.resize((image.width // 2, image.height // 2))),
    "stretched to a square": lambda image: encode(image.resize((80, 80))),
    "brighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.2)),
    "less contrast": lambda image: encode(ImageEnhance.Contrast(image).enhance(0.6)),
    "in colour": lambda image: encode(image.convert("RGB"), "JPEG", quality=80),
    **{
        turn.name: lambda image, turn=turn: encode(image.transpose(turn), "JPEG", quality=80)  # type: ignore[misc]
        for turn in Image.Transpose
    },
}


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
