from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

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


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_graph_is_cut_at_the_buckets_so_that_gradients_travel_during_the_backward_pass() -> None:
    # Compiled inside its DistributedDataParallel the network would be one graph, whose backward pass hands over all
    # gradients at its end.
    torch.manual_seed(0)
    network = build_model(num_logits=3, backbone="resnet18", norm="group", fpn_channels=64, head_channels=64)
    images = torch.randn(1, 3, 64, 64)
    sum(level.sum() for maps in network(images) for level in maps).backward()
    expected = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    graphs: list[Any] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    model = DistributedDataParallel(network, bucket_cap_mb=8)  # 45 MB of weights
    model.compile(backend=keep)
    try:
        sum(level.sum() for maps in model(images) for level in maps).backward()
    finally:
        torch.compiler.reset()
    assert 5 <= len(graphs) <= 9
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])
