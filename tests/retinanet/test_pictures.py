"""The laws of retinanet/data/pictures.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from retinanet.data.pictures import decode, read_picture


def noise(height: int, width: int) -> Image.Image:
    """Coarse and fine structure, in colour."""
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return Image.fromarray((smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "JPEG", **options})
    return file.getvalue()


def decode_by_pillow(content: bytes) -> torch.Tensor:
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / "a.png")
    assert read_picture(str(tmp_path / "a.png")).shape == (3, 4, 6)


def test_a_picture_stands_upright_as_its_exif_data_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(str(tmp_path / "a.jpg")).shape == (3, 6, 4)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
def test_pixels_of_a_jpeg_are_those_of_pillow(mode: str) -> None:
    content = encode(noise(53, 37).convert(mode))
    assert torch.equal(decode(content), decode_by_pillow(content))


@pytest.mark.parametrize("orientation", range(10))  # 1 is upright, 0 and 9 do not exist
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(noise(24, 40), exif=exif, format=file_format)
    assert decode(content).shape == ((3, 40, 24) if orientation in (5, 6, 7, 8) else (3, 24, 40))
    assert torch.equal(decode(content), decode_by_pillow(content))


def test_colours_of_a_pixel_lie_side_by_side() -> None:
    for picture in (decode(encode(noise(24, 40))), decode(encode(noise(24, 40), format="PNG"))):
        assert picture.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_jpeg_cut_short_is_refused_in_the_words_of_pillow(tmp_path: Path, kept: float) -> None:
    content = encode(noise(240, 320))
    (tmp_path / "a.jpg").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image \(image file is truncated.*\); run prep"):
        read_picture(str(tmp_path / "a.jpg"))


def test_a_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(encode(noise(24, 40)))
    assert read_picture("~/a.jpg").shape == (3, 24, 40)


def test_a_picture_whose_digest_changed_is_fetched_again(tmp_path: Path) -> None:
    location, cache = "memory://small/a.png", str(tmp_path / "cache")
    for size, digest in [((6, 4), "one"), ((8, 5), "two")]:
        with fsspec.open(location, "wb") as file:
            Image.new("RGB", size).save(file, format="png")
        picture = read_picture(location, cache_folder=cache, sha256=digest)
        assert picture.shape == (3, size[1], size[0])
