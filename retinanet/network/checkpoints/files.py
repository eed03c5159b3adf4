"""Files of checkpoints: the state dictionary in each, and what the file says beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retinanet.network.checkpoints.pickles import NUMPY, Array, Ignored, Namespace, load_arrays

STATES = ("model", "state_dict", "model_state_dict", "model_state")
"""Keys under which training scripts store the state dictionary."""

# What training scripts store beside weights; Ignored stands for them, so none of their code runs.
BESIDE = {
    "mmengine.logging.history_buffer.HistoryBuffer": Ignored,
    "builtins.getattr": Ignored,
    "argparse.Namespace": Namespace,
}
STARTS_PICKLE = b"\x80"
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first object in a file of torch.save before version 1.6, after the two bytes of the protocol."""


class CheckpointFile(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        state: the state dictionary, by the names of its project.
        beside: what else the file holds.
    """

    state: dict[str, Tensor]
    beside: dict[str, Any]


def read_checkpoint(path: Path) -> CheckpointFile:
    """Read the state dictionary of a file of torch.save, or of Detectron2's pickle; no code in it runs.

    Raises:
        ValueError: when the file is missing or broken, or holds no state dictionary or more than plain values.
    """
    return find_state(read_content(path), path)


def read_content(path: Path) -> object:
    """Read the content of such a file, whatever it is.

    Raises:
        ValueError: when the file is missing or broken, or holds more than plain values.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the checkpoint of a RetinaNet")
    try:
        return load_arrays(path.read_bytes()) if is_pickle(path) else load_tensors(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as weights: {error}; save the state dictionary alone, in its own project: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from None


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, and not of torch.save."""
    with path.open("rb") as file:
        start = file.read(2 + len(LEGACY_TORCH))
    return start.startswith(STARTS_PICKLE) and start[2:] != LEGACY_TORCH


def load_tensors(path: Path) -> object:
    """Read a file of torch.save; numpy's values and the histories of mmengine are dropped.

    Raises:
        ValueError: when it is broken, or names anything else.
    """
    admitted: list[Any] = [(stand_in, name) for name, stand_in in (NUMPY | BESIDE).items()]
    try:
        with torch.serialization.safe_globals(admitted):
            return torch.load(path, map_location="cpu", weights_only=True)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except Exception as error:  # a broken file raises anything
        # torch's message explains how to load the file unsafely; the error below it names what was refused.
        reason = (str(error.__context__ or error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError(reason.split(". Please use", maxsplit=1)[0]) from error


def find_state(content: object, path: Path) -> CheckpointFile:
    """Find the state dictionary in the content of a file.

    Raises:
        ValueError: when there is none.
    """
    whole = content if isinstance(content, Mapping) else {}
    key = next((name for name in STATES if isinstance(whole.get(name), Mapping)), None)
    state = whole if key is None else whole[key]
    tensors = {name: as_tensor(value) for name, value in state.items() if isinstance(name, str)}
    kept = {name: value for name, value in tensors.items() if value is not None}
    if not kept:
        raise ValueError(
            f"{path} holds no state dictionary; expected names with tensors, or one of the keys {', '.join(STATES)}"
        )
    strange = [name for name, value in tensors.items() if value is None and key is not None]
    if strange:
        raise ValueError(f"{path}: {', '.join(strange[:5])} in {key} are no tensors; expected a state dictionary")
    beside = {name: value for name, value in whole.items() if isinstance(name, str) and name != key}
    return CheckpointFile(strip_prefixes(kept), beside if key is not None else {})


def as_tensor(value: object) -> Tensor | None:
    """A tensor of a tensor or an array; None of anything else."""
    if isinstance(value, Array) and value.values is not None:
        return torch.from_numpy(value.values)
    return value if isinstance(value, Tensor) else None


def strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove what wrappers put before every name, such as DistributedDataParallel's `module.`."""
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
