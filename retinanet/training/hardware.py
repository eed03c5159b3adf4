"""What the hardware does well."""

from __future__ import annotations

import torch


def native_precision(gpu: bool) -> str:
    """bf16 where the hardware multiplies it natively, else fp32; emulated, bf16 would be slower than fp32."""
    if gpu:
        return (
            "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        )
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
