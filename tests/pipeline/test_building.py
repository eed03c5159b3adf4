"""Laws of the way from params.yaml to the detector: typed to the end, and no key is forgotten."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.anchor_stats.grid import anchor_grid
from pipeline.fit.building import (
    build_criterion,
    build_network,
    build_optimizer,
    build_schedule,
    build_state,
    build_transforms,
    load_weights,
)
from pipeline.fit.config import InputFiles, WorkerConfig, with_weights
from pipeline.params import Params, load_params
from pipeline.params.experiment import Tiles as TilesSection
from pipeline.params.runtime import load_runtime
from retinanet.anchors.grid import Grid, build_grid
from retinanet.data.tiles import Tiles
from retinanet.data.transforms import Transforms
from retinanet.inference import detector
from retinanet.inference.detector_file import describe_detector, save_detector
from tests.alone import alone

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
GRID = build_grid()
# Read where the training is set up, not where the detector is built.
ELSEWHERE = {"optim.clip_grad_norm", "optim.ema_decay"}


class Watched:
    """A section, or all of params.yaml, that notes which of its keys are read."""

    def __init__(self, section: Any, read: set[str], prefix: str = "") -> None:
        self._section, self._read, self._prefix = section, read, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        if hasattr(type(value), "model_fields"):
            return Watched(value, self._read, f"{name}.")
        self._read.add(f"{self._prefix}{name}")
        return value


def keys_of(*sections: str) -> set[str]:
    return {f"{name}.{key}" for name in sections for key in type(getattr(PARAMS, name)).model_fields}


def test_every_key_of_the_detectors_sections_is_passed_on() -> None:
    read: set[str] = set()
    params: Any = Watched(PARAMS, read)
    network = build_network(params, GRID, 3)
    load_weights(network, params, {})
    build_criterion(params, GRID, 3)
    build_schedule(build_optimizer(network, params.optim, params.train), params.optim, 10)
    build_transforms(params.transforms)
    anchor_grid(params.anchors)
    assert keys_of("anchors", "matcher", "loss", "model", "optim", "transforms") - ELSEWHERE - read == set()


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))], ids=str)
def test_section_and_its_part_of_the_detector_hold_the_same(path: Path) -> None:
    params = load_params(path)
    assert build_transforms(params.transforms) == Transforms(**params.transforms.model_dump())
    assert anchor_grid(params.anchors) == build_grid(**params.anchors.model_dump(exclude={"mode"}))


@pytest.mark.parametrize("size", [512, [480, 640]])
def test_tiles_of_the_section_are_those_of_the_description(size: int | list[int]) -> None:
    tiles = TilesSection(size=size, overlap=0.1, min_visible=0.3)
    section = PARAMS.transforms.model_copy(update={"tiles": tiles})
    built = build_transforms(section)
    assert built.tiles == Tiles(size, overlap=0.1, min_visible=0.3)
    assert built == Transforms.from_dict(section.model_dump())
    read: set[str] = set()
    watched: Any = Watched(section, read)
    build_transforms(watched)
    assert {f"tiles.{key}" for key in TilesSection.model_fields} <= read


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"size": 0}, "transforms.tiles.size"),
        ({"size": [512]}, "transforms.tiles.size"),
        ({"overlap": 0.95}, "transforms.tiles.overlap is 0.95"),
        ({"min_visible": 1.5}, "transforms.tiles.min_visible is 1.5"),
        ({"step": 100}, "transforms.tiles.step is not a parameter"),
    ],
)
def test_wrong_tiles_are_named(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["transforms"]["tiles"] = {"size": 512, "overlap": 0.2, "min_visible": 0.25} | changes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=rf"params.yaml: {complaint}"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("class_loss", ["sigmoid_focal", "softmax_focal"])
def test_network_of_the_parameters_is_the_network_of_the_description(class_loss: str) -> None:
    params = PARAMS.model_copy(update={"loss": PARAMS.loss.model_copy(update={"class_loss": class_loss})})
    built = build_network(params, GRID, 3).state_dict()
    read = detector.build_network(
        {
            "model": params.model.model_dump(),
            "loss": params.loss.model_dump(),
            "anchors": GRID.to_dict(),
            "categories": [{"name": name} for name in "abc"],
        }
    ).state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in read.items()}


def test_configuration_of_a_worker_travels_whole() -> None:
    config = WorkerConfig(
        PARAMS,
        load_runtime(ROOT / "conf/local.yaml"),
        description={"anchors": GRID.to_dict()},
        data=InputFiles("train.json", "val.json", root="pictures", sample_ids=(1, 2)),
        trials_at_once=2,
        thresholds=None if PARAMS.sweep is None else PARAMS.sweep.postprocess,
    )
    there = pickle.loads(pickle.dumps(config))
    assert there == config
    assert isinstance(there.params, Params)
    assert Grid.from_dict(there.description["anchors"]) == GRID


def test_a_detectors_file_is_loaded_and_told_by_the_first_worker(tmp_path: Path) -> None:
    content = load_params(ROOT / "params.yaml")
    path, description = tmp_path / "model.pt", describe_for(content, "abc")
    trained = build_network(content, GRID, 3)
    save_detector(path, trained.state_dict(), description)
    params = with_weights(content, str(path))
    told: list[dict[str, Any]] = []
    for rank in (0, 1):
        config = WorkerConfig(params, load_runtime(), describe_for(params, "xb"), InputFiles("", "", root=""))
        state = build_state(config, replace(alone(), rank=rank, send_event=told.append), total_steps=5)
        assert torch.equal(state.network.pyramid.p6.weight, trained.pyramid.p6.weight)
        assert torch.equal(state.network.class_head.output.bias[1:9:2], trained.class_head.output.bias[1:12:3])
    sentence = "loaded backbone, pyramid and heads; 1 of 2 classes have its logits by name, the others start fresh"
    assert told == [{"kind": "weights", "text": f"model.weights {path}: {sentence}"}]


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_step_has_a_graph_where_conf_says_so(cuda_graphs: bool) -> None:
    runtime = load_runtime(ROOT / "conf/gpu.yaml").model_copy(update={"cuda_graphs": cuda_graphs})
    config = WorkerConfig(PARAMS, runtime, describe_for(PARAMS, "abc"), InputFiles("", "", root=""))
    state = build_state(config, alone(), total_steps=5)
    assert (state.graph is not None) == cuda_graphs
    if state.graph is not None:
        assert {id(parameter) for parameter in state.graph.parameters} == {
            id(parameter) for parameter in state.network.parameters() if parameter.requires_grad
        }


def describe_for(params: Params, names: str) -> dict[str, Any]:
    return describe_detector(
        model=params.model.model_dump(),
        loss=params.loss.model_dump(),
        transforms=params.transforms.model_dump(),
        anchors=GRID.to_dict(),
        categories=[{"id": number, "name": name} for number, name in enumerate(names)],
        run={"digest": "d"},
    )
