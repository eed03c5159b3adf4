"""Laws of the fast decoder of JPEGs: the pixels and the errors are those of Pillow, for every kind of JPEG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retinanet.data import jpeg
from retinanet.data.jpeg import decode_turbo
from retinanet.data.pixels import decode_rgb, open_picture


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Coarse colours with noise, so that colours change within a block."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 20, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def by_pillow(content: bytes, reduction: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pixels without simplejpeg, or the sentence of the error."""
    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "decode_jpeg", None)
        return answer(content, reduction)


def answer(content: bytes, reduction: int = 1) -> Any:
    try:
        return decode_rgb(content, reduction).tolist()
    except (OSError, ValueError, SyntaxError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 92, "progressive": True}, {"optimize": True}])
def test_pixels_are_those_of_pillow(
    reduction: int, subsampling: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(picture(), subsampling=subsampling, **options)
    ours = decode_turbo(content, open_picture(content), reduction)
    assert ours is not None and ours.shape == (48 // reduction, 64 // reduction, 3) and ours.flags.writeable
    assert ours.tolist() == by_pillow(content, reduction, monkeypatch)


@pytest.mark.parametrize("orientation", range(10))
def test_exif_turns_as_pillow_does(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(picture(size=(61, 47)), exif=oriented(orientation))
    ours = decode_turbo(content, open_picture(content))
    assert ours is not None and ours.flags.c_contiguous
    assert ours.tolist() == by_pillow(content, 1, monkeypatch)


def test_greyscale_is_decoded_and_other_pictures_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = encode(picture("L", (33, 17)))
    ours = decode_turbo(grey, open_picture(grey))
    assert ours is not None and ours.tolist() == by_pillow(grey, 1, monkeypatch)
    buffer = io.BytesIO()
    picture().save(buffer, format="PNG")
    for content in (encode(picture("CMYK")), buffer.getvalue()):
        assert decode_turbo(content, open_picture(content)) is None
        assert answer(content) == by_pillow(content, 1, monkeypatch)


def test_damaged_files_have_pillows_pixels_or_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short at every 40th byte; with bytes changed in the scan; with something behind the end."""
    content = encode(picture(), quality=80)
    rng = np.random.default_rng(0)
    damaged = [content[:length] for length in range(400, len(content), 40)] + [content + b"more", content[:-2]]
    for _ in range(60):
        changed = bytearray(content)
        changed[int(rng.integers(620, len(content)))] = int(rng.integers(256))
        damaged.append(bytes(changed))
    answers = [(answer(data), by_pillow(data, 1, monkeypatch)) for data in damaged]
    assert sum(isinstance(ours, list) for ours, _ in answers) > 10
    assert sum(isinstance(ours, str) for ours, _ in answers) > 10
    assert [ours == theirs for ours, theirs in answers] == [True] * len(answers)
