"""On a CPU the focal loss of training is what the rule says; tests/gpu/interpreted_kernel.py tests the kernel."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import retinanet.losses as losses
from retinanet.losses import blocks, maps
from tests.focal_problems import FocalProblem, demand_the_rule, focal_problems


@settings(max_examples=300)
@given(problem=focal_problems(), block=st.sampled_from([1, 7, blocks.CPU_BLOCK]))
def test_blocks_of_a_cpu_give_what_the_rule_says(problem: FocalProblem, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CPU_BLOCK", block)
        demand_the_rule(problem, 3e-6 * max(1.0, problem.gamma))


def test_without_triton_a_gpu_takes_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "retinanet.losses.kernel", None)
    monkeypatch.delattr(losses, "kernel", raising=False)
    monkeypatch.setattr(maps, "uses_kernel", lambda device: True)
    maps.find_kernel.cache_clear()
    try:
        assert maps._find_background_pass(torch.zeros(1, 1, 1, 1)) is blocks.background_pass
    finally:
        maps.find_kernel.cache_clear()
