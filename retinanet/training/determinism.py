"""Deterministic algorithms of torch and cuDNN, for runs that must be equal to the bit on a GPU."""

from __future__ import annotations

import os

import torch


def set_deterministic(deterministic: bool, *, one_size: bool = False) -> None:
    """Choose deterministic algorithms, or the fastest; call it before the first operation on a GPU.

    Args:
        one_size: all batches have one size, so cuDNN tries its algorithms once, and the time that takes pays off.

    Every operation of a training step has a deterministic algorithm; another one would raise. cuBLAS needs a workspace
    of fixed size for it (NVIDIA, "Results reproducibility").
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = one_size and not deterministic
    # Filling memory that was never written costs a kernel per tensor, and no result reads it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # of a module class
    torch.use_deterministic_algorithms(deterministic)
