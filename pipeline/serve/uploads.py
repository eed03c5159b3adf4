"""What a client sends: read up to a limit, and decoded up to a limit. Errors carry their HTTP status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from torch import Tensor

from retinanet.data.pictures import decode
from retinanet.data.pixels import open_picture

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Of Pillow's: no other reader sees what a stranger sends, and some call programs, as that of EPS does."""

BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class RequestError(ValueError):
    """A request that cannot be answered, with its HTTP status and headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


async def read_file(headers: Headers, chunks: AsyncIterator[bytes], *, max_bytes: int, timeout_s: float) -> bytes:
    """Read the file that a request brings: its body, or the file of a form.

    Raises:
        RequestError: when there is none, it is too large, or it does not arrive in time.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            if headers.get("content-type", "").lower().startswith("multipart/"):
                content = await read_form(headers, limit(chunks, max_bytes))
            else:
                content = b"".join([chunk async for chunk in limit(chunks, max_bytes)])
    except TimeoutError:
        raise RequestError(408, f"the request did not arrive within {timeout_s:g} s") from None
    if not content:
        raise RequestError(400, "the request has no body; send the bytes of a picture, or a form with one file")
    return content


async def limit(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body; raise RequestError when they are more than max_bytes."""
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        yield chunk


async def read_form(headers: Headers, chunks: AsyncGenerator[bytes, None]) -> bytes:
    """Read the first file of a form."""
    try:
        form = await MultiPartParser(headers, chunks, max_files=1, max_fields=16).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        reason = error.message if isinstance(error, MultiPartException) else type(error).__name__
        raise RequestError(400, f"the form cannot be read ({reason}); send one file, as curl -F image=@a.jpg") from None
    try:
        file = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        if file is None:
            raise RequestError(400, "the form has no file; send one, as curl -F image=@a.jpg")
        return await file.read()
    finally:
        await form.close()


def too_large(max_bytes: int) -> RequestError:
    """The error of a request that is too large."""
    return RequestError(413, f"the request is larger than {max_bytes / 1e6:g} MB, the limit of this service")


def decode_upload(content: bytes, *, max_pixels: int) -> Tensor:
    """Decode a picture that a stranger sent: [3, H, W] uint8 RGB, upright as of its EXIF data.

    The size is checked before anything is decoded: 40 kB of PNG may hold 200 megapixels.

    Raises:
        RequestError: 415 for what is no picture, 413 for one that is too large, 422 for one that cannot be decoded.
    """
    try:
        with open_picture(content, FORMATS) as image:
            width, height = image.size
    except BOMBS:
        raise too_many_pixels(max_pixels) from None
    except UnidentifiedImageError:
        raise RequestError(415, f"this is no picture of a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # noqa: BLE001  # each reader of Pillow raises its own
        raise undecodable(error) from None
    if width * height > max_pixels:
        raise too_many_pixels(max_pixels, f"{width} x {height} px, ")
    try:
        return decode(content, formats=FORMATS)
    except BOMBS:  # a frame larger than the picture says it is
        raise too_many_pixels(max_pixels) from None
    except Exception as error:  # noqa: BLE001
        raise undecodable(error) from None


def undecodable(error: Exception) -> RequestError:
    """The error of a picture that breaks off or has pixels that are not understood."""
    reason = str(error) if isinstance(error, OSError | ValueError) else ""
    return RequestError(422, f"the picture cannot be decoded ({reason or type(error).__name__})")


def too_many_pixels(max_pixels: int, size: str = "") -> RequestError:
    """The error of a picture with too many pixels."""
    return RequestError(
        413, f"the picture has {size}more than {max_pixels / 1e6:g} megapixels, the limit of this service"
    )
