"""The recipe of presets/finetune.yaml, from random weights of torchvision's network, and from its own detector."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.models.detection import retinanet_resnet50_fpn_v2

from pipeline.fit.building import build_state
from pipeline.fit.config import WorkerConfig
from pipeline.fit.loop import load_splits, train_worker
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.runs.identity import BEST
from pipeline.runs.weights import COCO, hub_folder
from pipeline.worker_config import check_weights, initial_weights, worker_config
from retinanet.inference.detector import Detector
from tests.alone import alone
from tests.settings import change

ROOT = Path(__file__).parents[2]
NAMES = ["disc", "person", "triangle"]
"""Of the prepared classes; COCO has the second."""
TORCHVISION_PERSON = 1
"""Its id in COCO, which is its logit in torchvision."""


@pytest.fixture
def theirs(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Random weights of torchvision in the user's cache, and a small project with the recipe."""
    monkeypatch.setenv("TORCH_HOME", str(project / "torch"))
    torch.manual_seed(0)
    state = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    torch.save(state, project / "v2.pth")
    name = f"retinanet_v2-{hashlib.sha256((project / 'v2.pth').read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(COCO, "coco", f"http://127.0.0.1:9/{name}")
    hub_folder().mkdir(parents=True)
    (project / "v2.pth").rename(hub_folder() / name)

    own = yaml.safe_load(Path("params.yaml").read_text())
    recipe = yaml.safe_load((ROOT / "presets/finetune.yaml").read_text()) | {"data": own["data"]}
    recipe["transforms"] |= {"short_side": 64, "long_side": 64}
    recipe["train"] |= {"epochs": 1}
    Path("params.yaml").write_text(yaml.safe_dump(recipe))
    for split in ("train", "val"):
        path = Path(f"data/prepared/{split}.json")
        content = json.loads(path.read_text())
        content["categories"] = [row | {"name": n} for row, n in zip(content["categories"], NAMES, strict=True)]
        content["images"] = content["images"][:8]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
        path.write_text(json.dumps(content))
    return dict(state)


def configure() -> WorkerConfig:
    params, runtime = load_params(), load_runtime()
    check_weights(params, initial_weights(params, runtime))
    return worker_config(params, runtime, digest="d1", run="runs/d1")


@pytest.mark.slow
def test_recipe_tunes_cocos_weights_and_then_its_own_detector(theirs: dict[str, torch.Tensor], project: Path) -> None:
    heard: list[dict[str, Any]] = []

    def write(metrics: dict[str, Any], write_checkpoint: Any) -> None:
        (project / "last").mkdir(exist_ok=True)
        write_checkpoint(project / "last")

    worker = replace(alone(), send_event=heard.append, report=write)
    config = configure()
    begun = build_state(config, alone(), total_steps=10)
    assert [group["lr"] for group in begun.optimizer.param_groups[::2]] == pytest.approx([5e-5 * 0.01, 5e-6 * 0.01])
    logits = begun.network.class_head.output.bias.detach().unflatten(0, (9, 3))
    person = theirs["head.classification_head.cls_logits.bias"].unflatten(0, (9, 91))[:, TORCHVISION_PERSON]
    assert torch.equal(logits[:, 1], person)
    assert torch.allclose(logits[:, [0, 2]], torch.tensor(-4.59512))  # -log(.99 / .01)
    del begun

    train_worker(config, worker, *load_splits(config.data))
    told = [event["text"] for event in heard if event["kind"] == "weights"]
    assert told[0].startswith(
        "model.weights coco: loaded backbone, pyramid and heads; 1 of 3 classes have its logits by name, the others"
    )
    tuned = Detector.load(project / "last" / BEST)
    assert tuned.class_names == NAMES
    state = tuned.model.state_dict()
    assert torch.equal(state["backbone.layer1.0.conv1.weight"], theirs["backbone.body.layer1.0.conv1.weight"])
    assert not torch.equal(state["backbone.layer2.0.conv1.weight"], theirs["backbone.body.layer2.0.conv1.weight"])

    change("params.yaml", model__weights=str(project / "last" / BEST))
    again = build_state(configure(), worker, total_steps=10)
    assert heard[-1]["text"].endswith("loaded backbone, pyramid and heads; 3 of 3 classes have its logits by name")
    assert all(torch.equal(value, state[name]) for name, value in again.network.state_dict().items())
