from __future__ import annotations

import torch

from retinanet.network.precision import native_precision


def test_without_a_gpu_there_is_no_bf16_on_one() -> None:
    assert native_precision(gpu=torch.cuda.is_available()) in ("bf16", "fp32")
    if not torch.cuda.is_available():
        assert native_precision(gpu=True) == "fp32"
