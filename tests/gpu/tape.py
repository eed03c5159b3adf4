"""A CUDA graph on the CPU: records the operations with their tensors, and repeats them on the same memory.

Like a graph it knows neither Python nor sizes: numbers, shapes and addresses are those of the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CUDAGraph:
    """Stands for torch.cuda.CUDAGraph.

    Attributes:
        calls: operations with their arguments and results.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Any]]] = []

    def outside(self) -> set[int]:
        """The memory that is read or written and was there before the recording."""
        found: set[int] = set()
        made: set[int] = set()
        for _, args, kwargs, results in self.calls:
            found |= addresses((args, kwargs)) - made
            made |= addresses(results) - found
        return found

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, results in self.calls:
                again = tree_leaves(function(*args, **kwargs))
                for own, value in zip(results, again, strict=True):
                    if isinstance(own, Tensor) and own.data_ptr() != value.data_ptr():
                        assert own.shape == value.shape
                        own.copy_(value)


class graph(TorchDispatchMode):  # noqa: N801  # torch's name
    """Stands for torch.cuda.graph; unlike it, it also runs what it records."""

    def __init__(self, recorded: CUDAGraph, *, stream: None, capture_error_mode: str) -> None:
        super().__init__()
        assert capture_error_mode == "thread_local"
        self.recorded = recorded

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar_dense" not in str(func), "a recording cannot read a number"
        result = func(*args, **(kwargs or {}))
        self.recorded.calls.append((func, args, kwargs or {}, tree_leaves(result)))
        return result


def addresses(tree: Any) -> set[int]:
    """Where the tensors' memory begins."""
    leaves = tree_leaves(tree)
    return {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel()}
