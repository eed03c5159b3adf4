"""Laws of the tags that say on what a run works."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.tracking import cluster_tags, hardware
from pipeline.tracking.hardware import cpu_model, hardware_tags


def test_nodes_are_named_with_what_they_offer() -> None:
    nodes = [
        {"host": "head", "address": "10.0.0.1", "resources": {"CPU": 8.0}},
        {"host": "gpu-1", "address": "10.0.0.2", "resources": {"CPU": 16.0, "GPU": 2.0, "H100": 1.0}},
    ]
    assert cluster_tags({"job": "02000000", "submission": None, "nodes": nodes}) == {
        "ray.job_id": "02000000",
        "ray.num_nodes": "2",
        "ray.nodes": "head (10.0.0.1): 8 CPU; gpu-1 (10.0.0.2): 16 CPU, 2 GPU, 1 H100",
    }
    assert cluster_tags({"job": "a", "submission": "raysubmit_7", "nodes": []})["ray.submission_id"] == "raysubmit_7"


def test_gpus_are_counted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["NVIDIA H100", "NVIDIA H100", "NVIDIA T4"]
    driver = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(names),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: names[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert hardware_tags()["hardware.gpu"] == "2 x NVIDIA H100, 1 x NVIDIA T4"


def test_machine_without_gpu_has_no_tag_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    assert "hardware.gpu" not in hardware_tags()


def test_cpu_is_named_where_the_system_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert cpu_model()  # not Linux: what Python knows
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: Fast CPU @ 3 GHz\n")
    assert cpu_model() == "Fast CPU @ 3 GHz"
