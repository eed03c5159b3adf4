"""Law 3 with processes: two workers train as one, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from retinanet.data.dataset import TrainingBatches
from retinanet.data.splits import load_split
from tests.small_world import SmallWorld
from tests.tiny_training import TRANSFORMS, build_state, outcome, train, train_as_worker

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"training_state": {"optim": {"lr": 0.01}, "clip_grad_norm": 1.0}, "train": {"epochs": 3, "batch_size": 2}},
    "adamw": {
        # At the default of 1e-8 a gradient of 1e-8, which is rounding alone, moves a weight like one of 1e-3.
        "training_state": {
            "optim": {"optimizer": "adamw", "lr": 0.002, "backbone_lr_factor": 0.3},
            "eps": 1e-5,
            "ema_decay": 0.9,
        },
        "train": {"epochs": 2, "batch_size": 4},
    },
    "shares of two and one, in parts": {
        "training_state": {"optim": {"lr": 0.01}, "images_per_step": 1, "loss": {"normaliser": "image"}},
        "train": {"epochs": 2, "batch_size": 3},
    },
    "in a graph, which a CPU does not record": {
        "training_state": {"optim": {"lr": 0.01}, "clip_grad_norm": 1.0},
        "train": {"epochs": 2, "batch_size": 3},
        "in_graph": True,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_two_workers_train_as_one(small_world: SmallWorld, tmp_path: Path, options: dict[str, Any]) -> None:
    state = build_state(**options["training_state"])
    alone = outcome(state, train(state, load_split(small_world.train), **options["train"]))

    torch.multiprocessing.spawn(train_as_worker, (2, tmp_path, small_world.train, options), nprocs=2)
    first, second = (torch.load(tmp_path / f"worker_{rank}.pt", weights_only=True) for rank in range(2))

    assert first["step_losses"] == second["step_losses"] and first["losses"] == second["losses"]
    for worker in (first, second):
        assert_close(worker["step_losses"], alone["step_losses"], rtol=1e-4, atol=0)
        assert_close(worker["grad_norms"], alone["grad_norms"], rtol=1e-3, atol=0)
        # Each worker divides by the foreground of the global batch, whatever it holds of it itself.
        assert sorted(set(worker["normalisers"])) == sorted(set(alone["normalisers"]))
        assert_close(worker["weights"], alone["weights"], rtol=1e-3, atol=1e-5)
    assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])


def test_in_those_steps_some_worker_has_no_foreground(small_world: SmallWorld) -> None:
    split, sizes = load_split(small_world.train), OPTIONS["sgd"]["train"]
    shares = [
        TrainingBatches(split, TRANSFORMS, batch_size=2, seed=1, epoch=epoch, rank=rank, num_workers=2)[step]
        for epoch in range(sizes["epochs"])
        for rank in range(2)
        for step in range(len(split.records) // sizes["batch_size"])
    ]
    assert any(sum(map(len, share.boxes)) == 0 for share in shares)
