"""Laws of the speed: FLOPs by hand, parts that add up, and a file that says whose they are."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.evaluate import run as stage
from pipeline.evaluate import speed as speed_module
from pipeline.evaluate.__main__ import main
from pipeline.evaluate.outputs import SPEED
from pipeline.evaluate.run import MODEL
from pipeline.evaluate.sharing import IMAGES_PER_BATCH
from pipeline.evaluate.speed import count_flops, measure_speed
from pipeline.evaluate.speed_report import describe_speed, speed_metrics
from pipeline.storage.outs import read_json
from pipeline.tracking import NoopRun
from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import Split
from retinanet.inference.detector import Detector


def read_split() -> Split:
    content = read_json(Path("data/prepared/test.json"))
    return Split(content, root=content["info"]["root"])


def convolution_flops(detector: Detector, batch: Any) -> int:
    """2 * inputs of a cell * outputs * cells of every convolution; a RetinaNet multiplies nowhere else."""
    total = 0

    def add(module: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        inputs = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        total += 2 * inputs * output.numel()

    hooks = [m.register_forward_hook(add) for m in detector.model.modules() if isinstance(m, nn.Conv2d)]
    list(detector.predict([batch]))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.usefixtures("untrained")
def test_speed_of_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "MOST_BATCHES", 2)
    monkeypatch.setattr(speed_module, "MOST_SECONDS", 600.0)  # however busy the machine is
    detector, split = Detector.load(MODEL), read_split()
    batch = EvaluationBatches(split, detector.transforms, batch_size=1)[0]
    assert count_flops(detector, batch) == convolution_flops(detector, batch)
    two = EvaluationBatches(split, detector.transforms, batch_size=2)[0]
    assert count_flops(detector, two) == convolution_flops(detector, two) // 2

    speed = measure_speed(detector, split)
    assert speed.parameters == sum(weights.numel() for weights in detector.model.parameters())
    assert (speed.height, speed.width) == batch.padded_size
    assert speed.device and speed.threads == torch.get_num_threads()
    assert [one.batch_size for one in speed.batches] == [1, IMAGES_PER_BATCH]
    for one in speed.batches:
        assert min(one.decode_ms, one.network_ms, one.postprocess_ms) > 0
        assert one.images_per_s == pytest.approx(1000 / (one.decode_ms + one.network_ms + one.postprocess_ms))
    assert speed_metrics(speed)["speed.batch_8.images_per_s"] == speed.batches[1].images_per_s
    assert describe_speed(speed)["batches"]["batch_1"]["decode_ms"] == speed.batches[0].decode_ms


@pytest.mark.usefixtures("untrained")
def test_evaluation_writes_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "open_existing_run", lambda **opening: nullcontext(NoopRun()))
    main([])
    written = json.loads(SPEED.read_text())
    assert written["device"] and written["flops"] > 0
    assert "batch_1" in written["batches"]


def test_workers_that_detect_leave_no_speed() -> None:
    assert describe_speed(None) == {"device": None, "batches": {}}
    assert speed_metrics(None) == {}
