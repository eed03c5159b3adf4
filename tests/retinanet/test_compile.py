from __future__ import annotations

import pytest
import torch

from retinanet.network.model import build_model


@pytest.mark.slow  # the first compilation imports torch._dynamo
@pytest.mark.parametrize("norm", ["frozen_batch", "group"])
@pytest.mark.parametrize("threads", [1, 2])
def test_network_is_one_graph_with_the_same_outputs(norm: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # one thread chooses other kernels for 1x1 convolutions on a CPU
    try:
        options = {"norm": norm, "fpn_channels": 8, "head_channels": 8, "head_depth": 1}
        network = build_model(num_logits=3, backbone="resnet50", **options).to(memory_format=torch.channels_last)
        images = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
        compiled = torch.compile(network, fullgraph=True, backend="eager")  # a graph break is an error
        for own, expected in zip(compiled(images), network(images), strict=True):
            for level, reference in zip(own, expected, strict=True):
                torch.testing.assert_close(level, reference)
    finally:
        torch.set_num_threads(before)
        torch.compiler.reset()
