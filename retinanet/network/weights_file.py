"""Files of torch.save, read without running code that they may hold."""

from __future__ import annotations

from pathlib import Path

import torch


def load_plain(path: Path | str) -> object:
    """What torch.save wrote, on the CPU: tensors and plain values only, because a pickle may run any code.

    Raises:
        ValueError: when the file is broken or holds anything else.
    """
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        # torch's message explains how to load the file unsafely; the error below it names what was refused.
        reason = (str(error.__context__ or error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as weights ({reason}); "
            "expected a file written by torch.save with only tensors and plain values"
        ) from error
    return content
