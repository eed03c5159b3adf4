"""Numeric precision of the convolutions: fp32 (IEEE), tf32 (Ampere and later, a mantissa of 10 bits), bf16, fp16."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Multiplied = Literal["ieee", "tf32"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

# torch's flags belong to the process. So all who are inside a context stand here in the order in which they came:
# the last one's wish holds, and when the last has left, what held before.
_inside: dict[object, tuple[str, str]] = {}
_before: tuple[str, str] = ("none", "none")
_lock = threading.Lock()


@contextmanager
def convolving_float32(as_: Multiplied = "ieee") -> Iterator[None]:
    """Let cuDNN convolve float32 as IEEE float32 or as TF32 while the body runs; matrix products are IEEE in both.

    Without it torch convolves in TF32 where a GPU can. The backward pass reads the flags when it runs, so it belongs
    into the body too. Half precision is not concerned, nor is a CPU.
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
    """How cuDNN convolves and cuBLAS multiplies float32 now: ieee, tf32, or none, which for cuBLAS is ieee."""
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision  # type: ignore[attr-defined]


def write_flags(flags: tuple[str, str]) -> None:
    """The inverse of read_flags."""
    torch.backends.cudnn.conv.fp32_precision = flags[0]  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = flags[1]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Convolutions in half precision, or nothing for fp32 and tf32."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


def float32_of(precision: str) -> Multiplied:
    """How float32 is convolved at a precision of training."""
    return "tf32" if precision == "tf32" else "ieee"


def native_precision(gpu: bool) -> str:
    """bf16 where the hardware multiplies it natively, else fp32; emulated, bf16 would be slower than fp32."""
    if gpu:
        return (
            "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        )
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
