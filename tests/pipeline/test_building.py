"""Laws of the way from params.yaml to the detector: typed to the end, and no key is forgotten."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.anchor_stats.grid import anchor_grid
from pipeline.fit.building import build_criterion, build_network, build_optimizer, build_schedule, build_transforms
from pipeline.fit.config import InputFiles, WorkerConfig
from pipeline.params import Params, load_params
from pipeline.params.experiment import Tiles as TilesSection
from pipeline.params.runtime import load_runtime
from retinanet.anchors.grid import Grid, build_grid
from retinanet.data.tiles import Tiles
from retinanet.data.transforms import Transforms
from retinanet.inference import detector

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
