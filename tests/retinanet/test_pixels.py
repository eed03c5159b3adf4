"""Decoding of pictures: one rule of scaling for every mode and file format, and a refusal where none exists."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from retinanet.data.pixels import THUMBNAIL, PixelFormatError, decode_rgb, measure, to_rgb

# All 65536 values, once each.
RAMP = np.arange(2**16, dtype=np.uint16).reshape(128, 512)
GREY = np.repeat((RAMP >> 8).astype(np.uint8)[..., None], 3, axis=2)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def sixteen_bits(values: NDArray[np.uint16], kind: str) -> bytes:
    """A grey picture of 16 bits in a file; PNG and PGM hold the high byte first, TIFF either."""
    if kind == "PGM":
        return b"P5\n%d %d\n65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()
    if kind == "TIFF, high byte first":
        return encode(Image.fromarray(values.astype(">u2")), "TIFF")
    return encode(Image.fromarray(values), kind)


def png_of_16_bits(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """A PNG file [H, W, C] of 16 bits a channel, by the specification; Pillow writes none in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, high byte first", "JPEG2000", "PGM"])
def test_the_upper_8_of_16_grey_bits_stay(kind: str) -> None:
    content = sixteen_bits(RAMP, kind)
    np.testing.assert_array_equal(decode_rgb(content), GREY)
    assert measure(content)[:2] == ((512, 128), 65535)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_thumbnail_holds_the_grey_levels_of_the_parts_of_the_picture(file_format: str) -> None:
    # 4 quarters of 160 x 120 px: black, white, and in the lower half 0.299 * 200 = 60 (red), 0.587 * 100 = 59 (green)
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[:120, 160:], pixels[120:, :160, 0], pixels[120:, 160:, 1] = 255, 200, 100
    content = encode(Image.fromarray(pixels), file_format, **({"quality": 95} if file_format == "JPEG" else {}))
    thumbnail = np.frombuffer(measure(content).thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL)
    quarters = thumbnail.reshape(2, 16, 2, 16)[:, 2:-2, :, 2:-2]  # without the edges, over which the filter reaches
    expected = np.array([[0, 255], [60, 59]])[:, None, :, None]
    assert np.abs(quarters.astype(int) - expected).max() <= 3


def test_grey_of_16_bits_is_within_a_level_of_the_exact_scale() -> None:
    # black stays black, white stays white, and v * 255 / 65535 = v / 257 is never further away than one level
    shown = decode_rgb(sixteen_bits(RAMP, "PNG"))[..., 0].astype(float)
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.abs(shown - RAMP / 257).max() < 1


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])  # grey, RGB, grey and A, RGBA
def test_16_bits_are_scaled_alike_in_grey_and_in_colour(colour_type: int, channels: int) -> None:
    content = png_of_16_bits(np.repeat(RAMP[..., None], channels, axis=2), colour_type)
    np.testing.assert_array_equal(decode_rgb(content), GREY)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_picture_of_8_bits_is_the_same_in_16(bits: int) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    # either way in which programs widen: times 257 (255 -> 65535), or shifted (255 -> 65280)
    wide = grey.astype(np.uint16) * 257 if bits == 16 else grey.astype(np.uint16) << 8
    np.testing.assert_array_equal(decode_rgb(sixteen_bits(wide, "PNG")), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("big_endian", [False, True])
def test_16_bits_are_turned_as_8_bits_are(orientation: int, big_endian: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(RAMP.astype(">u2") if big_endian else RAMP)
    content = encode(picture, "TIFF", exif=exif)
    eight = Image.open(io.BytesIO(encode(Image.fromarray(GREY), "PNG", exif=exif)))
    np.testing.assert_array_equal(decode_rgb(content), np.asarray(ImageOps.exif_transpose(eight)))
    found = measure(content)
    assert found.size == ((128, 512) if orientation >= 5 else (512, 128))
    assert (found.orientation, found.is_grey) == (orientation, True)


@pytest.mark.parametrize(("mode", "kind"), [("F", "floats"), ("I", "integers")])
def test_pixels_of_32_bits_are_refused(mode: str, kind: str) -> None:
    content = encode(Image.new(mode, (6, 4), 200), "TIFF")
    for read in (decode_rgb, measure):
        with pytest.raises(
            PixelFormatError, match=rf"its pixels are 32-bit {kind} \(mode {mode}\), .* to 8 or 16 bits"
        ):
            read(content)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (6, 4), 1), (255, 255, 255)),
        (Image.new("L", (6, 4), 77), (77, 77, 77)),
        (Image.new("LA", (6, 4), (77, 0)), (77, 77, 77)),  # transparent: the colour is what the file stores
        (Image.new("RGBA", (6, 4), (1, 2, 3, 0)), (1, 2, 3)),
        (Image.new("RGB", (6, 4), (1, 2, 3)), (1, 2, 3)),
        # 255 - C - K and so on, Pillow's formula: (255 - 100) * (255 - 30) / 255 = 136.8
        (Image.new("CMYK", (6, 4), (100, 0, 255, 30)), (137, 225, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_other_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    content = encode(image, "TIFF" if image.mode == "CMYK" else "PNG")
    pixels = decode_rgb(content)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8(expected), (4, 6, 3)))
    assert measure(content)[:2] == ((6, 4), None)


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_of_lab_are_black_and_white(level: int) -> None:
    pixels = decode_rgb(encode(Image.new("LAB", (6, 4), (level, 128, 128)), "TIFF"))
    assert np.abs(pixels.astype(int) - level).max() <= 1  # LittleCMS rounds


@pytest.mark.parametrize("transparency", [3, bytes(range(200))], ids=["one colour", "each colour"])
def test_a_palette_keeps_its_colours_whatever_is_transparent(transparency: int | bytes) -> None:
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    content = encode(Image.fromarray(grey).convert("P"), "PNG", transparency=transparency)
    np.testing.assert_array_equal(decode_rgb(content), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "GIF", "WEBP"])
def test_the_first_of_several_frames_is_taken(file_format: str) -> None:
    frames = [Image.new("RGB", (6, 4), (level, 0, 0)) for level in (50, 100, 150)]
    options: dict[str, Any] = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    np.testing.assert_array_equal(decode_rgb(content), np.asarray(frames[0]))
    assert measure(content).size == (6, 4)


def test_a_picture_in_rgb_is_not_copied() -> None:
    image = Image.new("RGB", (6, 4))
    assert to_rgb(image) is image
