"""Detect with a file of `python -m pipeline.export --onnx`; needs onnxruntime, numpy and Pillow alone.

    python detect_onnx.py model.onnx a.jpg b.png

Prints a line per detection above the threshold of its class: picture, class, score, and x1, y1, x2, y2 in px.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, paths: list[str]) -> None:
    """Detect on pictures, one at a time."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    about = {name: json.loads(text) for name, text in properties.items()}
    for path in paths:
        for box, score, label in zip(*detect(session, about, read(path)), strict=True):
            print(path, about["classes"][label], f"{score:.3f}", *(f"{side:.2f}" for side in box))


def read(path: str) -> np.ndarray:
    """A picture [H, W, 3] uint8 RGB, upright as its EXIF data say; 16 bits keep their upper 8."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # of a PGM Pillow makes 32 bits, scaled to 16
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def detect(session: onnxruntime.InferenceSession, about: dict, picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """Boxes [D, 4] in px of the picture, scores [D] and labels [D] above the threshold of their class."""
    size = resized_size(about, picture.shape[:2])
    image = resize(picture, size, antialias=about["resize"]["antialias"])
    # Several pictures go into one batch, each at the top left: images [N, H, W, 3], and the size of each in sizes.
    boxes, scores, labels, counts = session.run(None, {"images": image[None], "sizes": np.array([size])})
    found = slice(counts[0])
    boxes, scores, labels = boxes[0, found], scores[0, found], labels[0, found]
    height, width = np.array(picture.shape[:2], dtype=np.float32) / np.array(size, dtype=np.float32)
    kept = scores > np.array(about["score_thresholds"], dtype=np.float32)[labels]
    return (boxes * np.array([width, height, width, height]))[kept], scores[kept], labels[kept]


def resized_size(about: dict, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the network sees: the short side as trained, unless the long side would exceed its own."""
    factor = min(about["short_side"] / min(size), about["long_side"] / max(size))
    height, width = (max(1, int(side * factor + 0.5 * about["resize"]["rounds"])) for side in size)
    return height, width


def resize(picture: np.ndarray, size: tuple[int, int], *, antialias: bool) -> np.ndarray:
    """Resize [H, W, 3] uint8 as PyTorch does on x86: bilinear, in whole numbers, the width first.

    With antialias, Image.resize(size, Image.BILINEAR) of Pillow is the same but for one grey level here and there.
    """
    for axis in (1, 0):
        if picture.shape[axis] != size[axis]:
            picture = resize_axis(picture.swapaxes(0, axis), size[axis], antialias).swapaxes(0, axis)
    return np.ascontiguousarray(picture)


def resize_axis(picture: np.ndarray, length: int, antialias: bool) -> np.ndarray:
    """Resize the first axis of [S, ..] uint8 to a length."""
    scale = picture.shape[0] / length
    reach = max(scale, 1.0) if antialias else 1.0  # px, half the width of the triangle
    rows = []
    for i in range(length):
        centre = scale * (i + 0.5)
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), picture.shape[0])
        weights = [max(0.0, 1.0 - abs((j - centre + 0.5) / reach)) for j in range(first, last)]
        rows.append((first, np.array(weights) / sum(weights)))
    highest = max(weights.max() for _, weights in rows)
    bits = next((n for n in range(22) if int(0.5 + highest * (1 << (n + 1))) >= 1 << 15), 22)
    result = np.empty((length, *picture.shape[1:]), dtype=np.uint8)
    for i, (first, weights) in enumerate(rows):
        whole = (weights * (1 << bits) + 0.5).astype(np.int32)
        total = sum(weight * picture[first + k].astype(np.int32) for k, weight in enumerate(whole))
        result[i] = np.clip((total + (1 << (bits - 1))) >> bits, 0, 255)
    return result


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
