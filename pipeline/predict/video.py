"""Videos: frames in, drawn frames out, by PyAV, whose wheel brings FFmpeg; imported only where there is a video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.predict.batches import in_a_line

if TYPE_CHECKING:
    from av.container import InputContainer

PIXELS = "rgb24"


class BrokenVideoError(Exception):
    """A video that cannot be read, or no further."""


def demand_package(location: str) -> None:
    """Refuse a video where PyAV is not installed.

    Raises:
        ValueError: with the command that installs it.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise ValueError(f"{location} is a video, which needs the package PyAV: pip install av") from None


def open_video(location: str, stack: ExitStack) -> InputContainer:
    """Open a video at a path or a URL.

    Raises:
        BrokenVideoError: when it is none, or cannot be read.
    """
    import av

    try:
        file = stack.enter_context(fsspec.open(location, "rb")) if "://" in location else location
        container: InputContainer = stack.enter_context(av.open(file))
    except Exception as error:  # every store of fsspec raises its own; av.FFmpegError
        raise BrokenVideoError(in_a_line(error)) from error
    if not container.streams.video:
        raise BrokenVideoError("it has no picture track")
    return container


def count_frames(location: str) -> int:
    """The number of frames as the file says it, or as its duration lets expect; 0 where it is not known."""
    with ExitStack() as stack:
        try:
            stream = open_video(location, stack).streams.video[0]
        except BrokenVideoError:
            return 0
        if stream.frames or stream.duration is None or stream.time_base is None:
            return int(stream.frames)
        return round(float(stream.duration * stream.time_base * frame_rate(stream)))


def frame_rate(stream: Any) -> Fraction:
    """Frames per second on average; 25 where the file does not say it."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def read_frames(location: str) -> Iterator[Tensor]:
    """Yield the frames of a video, upright: [3, H, W] uint8 RGB.

    Raises:
        BrokenVideoError: where it cannot be read, or no further.
    """
    with ExitStack() as stack:
        container = open_video(location, stack)
        container.streams.video[0].thread_type = "AUTO"
        frames = container.decode(video=0)
        while True:
            try:
                frame = next(frames, None)
            except Exception as error:  # as of open_video
                raise BrokenVideoError(in_a_line(error)) from error
            if frame is None:
                return
            # A phone stores what it holds upright lying down, with the angle by which to turn it.
            upright = np.rot90(frame.to_ndarray(format=PIXELS), round(frame.rotation / 90))
            yield torch.from_numpy(np.ascontiguousarray(upright)).permute(2, 0, 1)


class VideoWriter:
    """An MP4 file with H.264, which browsers play; it appears under its name when it is closed. Without sound.

    Args:
        like: the video whose frame rate it has.
        size: height and width of the frames, px.
    """

    def __init__(self, path: Path, *, like: str, size: tuple[int, int]) -> None:
        import av

        self.path, self.temporary = path, path.with_name(f".writing-{path.name}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            rate = frame_rate(open_video(like, stack).streams.video[0])
        self.container = av.open(str(self.temporary), "w", format="mp4")
        self.stream: Any = self.container.add_stream("libx264", rate=rate)
        self.size = (size[0] + size[0] % 2, size[1] + size[1] % 2)  # colours are stored for 2 x 2 px
        self.stream.height, self.stream.width = self.size
        self.stream.pix_fmt = "yuv420p"

    def write(self, frame: Tensor) -> None:
        """Append a frame [3, H, W] uint8 RGB; one of another size is cut or padded at the right and the bottom."""
        import av

        height, width = self.size
        fitting = pad(frame, (0, width - frame.shape[2], 0, height - frame.shape[1]))
        pixels = np.ascontiguousarray(fitting.permute(1, 2, 0).numpy())
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(pixels, format=PIXELS)))

    def close(self) -> None:
        """Complete the file."""
        self.container.mux(self.stream.encode())
        self.container.close()
        self.temporary.replace(self.path)
