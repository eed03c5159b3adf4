"""Numeric precision of the convolutions: fp32 (IEEE), tf32 (Ampere and later, a mantissa of 10 bits), bf16, fp16."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Multiplied = Literal["ieee", "tf32"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

# torch's flags are global to the process. This registry holds the open contexts in the order of their entry: the last
# one applies; when none is left, the earlier flags apply again.
_inside: dict[object, tuple[str, str]] = {}
_before: tuple[str, str] = ("none", "none")
_lock = threading.Lock()


@contextmanager
def convolving_float32(as_: Multiplied = "ieee") -> Iterator[None]:
    """Let cuDNN convolve float32 as IEEE float32 or as TF32 while the body runs; matrix products are IEEE in both.

    By default torch convolves in TF32 where a GPU supports it. The backward pass reads the flags when it runs, so it
    must be in the body too. Half precision and CPUs are not affected.
    """
    global _before
    me = object()
    with _lock:
        if not _inside:
            _before = read_flags()
        _inside[me] = (as_, "ieee")
        write_flags(_inside[me])
    try:
        yield
    finally:
        with _lock:
            del _inside[me]
            write_flags(next(reversed(_inside.values()), _before))


def read_flags() -> tuple[str, str]:
    """The current flags of cuDNN and cuBLAS for float32: ieee, tf32, or none, which for cuBLAS means ieee."""
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision  # type: ignore[attr-defined]


def write_flags(flags: tuple[str, str]) -> None:
    """The inverse of read_flags."""
    torch.backends.cudnn.conv.fp32_precision = flags[0]  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = flags[1]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to half precision; no effect for fp32 and tf32."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


def float32_of(precision: str) -> Multiplied:
    """The float32 mode of convolutions at a training precision."""
    return "tf32" if precision == "tf32" else "ieee"


def native_precision(gpu: bool) -> str:
    """bf16 where the hardware supports it natively, else fp32; emulated bf16 is slower than fp32."""
    if gpu:
        return (
            "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        )
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
