"""Laws of the door to params.yaml: a mistake is one sentence with file, dotted path and the nearest key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.params import Params, flatten, load_params

REPOSITORY = Path(__file__).parents[2]
SECTIONS = ["data", "transforms", "anchors", "matcher", "loss", "model", "optim", "train", "postprocess", "evaluate"]
FREE = ("sweep.space.", "sweep.fixed.")  # their keys are parameters, which check_sweep looks up
STAGES = ["prepare", "anchor_stats", "train", "evaluate"]


@cache
def content_of_file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    return content


def shipped() -> dict[str, Any]:
    return deepcopy(content_of_file())


def holder(content: dict[str, Any], dotted: str) -> tuple[dict[str, Any], str]:
    """The mapping in which a dotted key stands, and its last part."""
    *outer, key = dotted.split(".")
    for part in outer:
        content = content[part]
    return content, key


def put(content: dict[str, Any], dotted: str, value: object) -> dict[str, Any]:
    mapping, key = holder(content, dotted)
    mapping[key] = value
    return content


def complaint_about(content: object, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="params") as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def leaves(mapping: Mapping[str, Any]) -> Iterator[str]:
    yield from flatten(mapping)


# ---- the shipped files -----------------------------------------------------------------------------------------------


def test_shipped_file_loads_with_every_value_as_written() -> None:
    assert load_params(REPOSITORY / "params.yaml").model_dump() == shipped()


def test_params_are_frozen() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.loss.gamma = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 2


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dotted", [key for key in leaves(shipped()) if key != "seed" and not key.startswith(FREE)])
def test_misspelt_key_is_told_with_the_right_one(dotted: str, tmp_path: Path) -> None:
    content = shipped()
    mapping, key = holder(content, dotted)
    mapping[f"{key}x"] = mapping.pop(key)
    told = complaint_about(content, tmp_path).splitlines()
    assert told[0] == f"{dotted}x is not a parameter; did you mean {dotted}?"
    assert told[1].strip() == f"{dotted} is missing; every key of the shipped params.yaml must be present"


@pytest.mark.parametrize("section", ["seed", *SECTIONS])
def test_missing_section_is_told(section: str, tmp_path: Path) -> None:
    content = shipped()
    del content[section]
    assert (
        complaint_about(content, tmp_path)
        == f"{section} is missing; every key of the shipped params.yaml must be present"
    )


def test_only_a_sweep_needs_the_section_sweep(tmp_path: Path) -> None:
    content = shipped()
    del content["sweep"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert load_params(tmp_path / "params.yaml").sweep is None


def test_misspelt_section_is_told_with_the_right_one(tmp_path: Path) -> None:
    content = shipped()
    content["optimizer"] = content.pop("optim")
    assert "optimizer is not a parameter; did you mean optim?" in complaint_about(content, tmp_path)


def test_key_that_resembles_nothing_is_told_with_all_that_are_valid(tmp_path: Path) -> None:
    told = complaint_about(put(shipped(), "train.zzz", 1), tmp_path)
    known = "train.batch_size, train.epochs, train.evaluate_every, train.patience, train.repeat_threshold, train.on_nan"
    assert told == f"train.zzz is not a parameter; valid here: {known}"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    content = put(put(shipped(), "loss.gama", 1.0), "train.epochs", 0)
    told = complaint_about(content, tmp_path)
    assert "loss.gama is not a parameter; did you mean loss.gamma?" in told
    assert "train.epochs is 0" in told


# ---- values ----------------------------------------------------------------------------------------------------------

WRONG: dict[str, list[object]] = {
    "seed": ["one", 1.5, None, True],
    "data.root": [3, None],
    "data.classes": [[], "RBC", [1]],
    "data.train": [None, "train.json"],
    "data.shapes.train": [0, 2.5, True],
    "data.shapes.image_size": [31],
    "data.shapes.empty_fraction": [-0.1, 1.1, float("nan")],
    "data.shapes.noise": [-1, float("inf")],
    "transforms.short_side": [0, [], [128, 0], "128"],
    "transforms.mean": [[0.5, 0.5], [0.5, 0.5, "x"], 0.5],
    "transforms.std": [[0.2, 0.2, 0.0]],
    "transforms.horizontal_flip": [1.5, True],
    "transforms.hue": [0.6],
    "transforms.scale_jitter": [[1.0], [0.0, 1.0]],
    "transforms.random_crop": [0.0, 1.1],
    "transforms.canvas": [[640], [0, 640], 640],
    "transforms.min_visible": [-0.1, 1.1],
    "transforms.tiles": [512, [512, 512]],
    "anchors.mode": ["auto", None, True],
    "anchors.base_scale": [0, -1.0, float("nan")],
    "anchors.aspect_ratios": [[], [0.0]],
    "anchors.rounded": [1, "yes"],
    "anchors.offset": [1.5],
    "matcher.foreground_iou": [1.5, None],
    "loss.gamma": [-1, float("nan"), None],
    "loss.alpha": [1.5, "none", [-1.0], float("nan")],
    "loss.beta": [0],
    "model.frozen_stages": [6, -1],
    "model.prior": [0, 1],
    "model.box_stds": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]],
    "model.weights": [0],
    "optim.lr": [0, -0.1, float("inf")],
    "optim.momentum": [1.0],
    "optim.clip_grad_norm": [0],
    "optim.ema_decay": [1.0],
    "optim.steps": [[1.0], 0.5],
    "train.batch_size": [0, 16.0],
    "train.epochs": [0],
    "train.patience": [0, 1.5, "never"],
    "postprocess.score_threshold": [2.0],
    "postprocess.max_detections": [0, 1.5],
    "evaluate.pictures": [-1],
    "evaluate.working_point": ["F1", 0.5, None, {}, {"precision": 0}, {"recall": 1.5}, {"precison": 0.9}],
}


@pytest.mark.parametrize(("dotted", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_wrong_value_is_told_with_its_path(dotted: str, value: object, tmp_path: Path) -> None:
    told = complaint_about(put(shipped(), dotted, value), tmp_path)
    assert "\n" not in told
    # A list's wrong entry is told with its place: loss.alpha.0
    assert told.startswith((f"{dotted} is {value!r}: ", f"{dotted}."))


CHOICES = {
    "data.format": ("cocoo", "coco"),
    "matcher.low_quality": ("truths", "truth"),
    "loss.class_loss": ("sigmoid", "sigmoid_focal"),
    "loss.box_loss": ("smoothl1", "smooth_l1"),
    "loss.normaliser": ("images", "image"),
    "model.backbone": ("resnet_50", "resnet50"),
    "model.norm": ("groupnorm", "group"),
    "model.p6_from": ("C5", "c5"),
    "optim.optimizer": ("adam", "adamw"),
    "optim.schedule": ("step", "steps"),
    "evaluate.split": ("testing", "test"),
}


@pytest.mark.parametrize(("dotted", "wrong", "right"), [(key, *pair) for key, pair in CHOICES.items()])
def test_wrong_choice_is_told_with_the_nearest(dotted: str, wrong: str, right: str, tmp_path: Path) -> None:
    told = complaint_about(put(shipped(), dotted, wrong), tmp_path)
    assert told.startswith(f"{dotted} is {wrong!r}: ")
    assert told.endswith(f"; did you mean {right}?")


TOGETHER: list[tuple[dict[str, object], str]] = [
    (
        {"data.test": None},
        "evaluate.split is test, but data.test is null; name a test split, set data.split.test above 0",
    ),
    ({"data.test": None, "data.split.test": 0.1}, "evaluate.split is test, but data.test is null"),  # of drawn shapes
    ({"data.val": None}, "data.val must not be null with data.format shapes, which draws it"),
    (
        {"data.format": "yolo", "data.val": None, "data.split.val": 0.0},
        "data.val is null and split.val is 0; name a val",
    ),
    ({"data.split.val": 0.7, "data.split.test": 0.3}, "data.split.val 0.7 + test 0.3 is 1, which leaves no train"),
    ({"data.split.group": "video("}, "data.split.group is 'video(', which is no regular expression: missing ), unter"),
    ({"anchors.scales_per_octave": None}, "anchors.sizes and anchors.scales_per_octave are both null"),
    ({"anchors.sizes": [[8.0]]}, "anchors.sizes has 1 entries, but the pyramid has 5 levels"),
    ({"anchors.sizes": [[8.0]] * 4 + [[8.0, 9.0]]}, "anchors.sizes must have equally many sides on each level"),
    (
        {"matcher.background_iou": 0.6, "matcher.foreground_iou": 0.5},
        "matcher.background_iou is 0.6, above foreground_iou 0.5",
    ),
    ({"matcher.background_iou": 0, "matcher.foreground_iou": 0}, "matcher.foreground_iou is 0"),
    ({"loss.alpha": [0.2, 0.3], "data.classes": ["a", "b", "c"]}, "loss.alpha has 2 entries, expected 3"),
    (
        {"loss.alpha": [0.2] * 3, "data.classes": ["a", "b", "c"], "loss.class_loss": "softmax_focal"},
        "loss.alpha has 3 entries, expected 4 for data.classes, first the background",
    ),
    ({"model.norm": "frozen_batch"}, "model.norm is frozen_batch, but weights is null"),
    ({"loss.alpha": [0.5, 1.5], "loss.class_loss": "sigmoid_focal"}, "loss.alpha is [0.5, 1.5], with sigmoid_focal no"),
    ({"model.weights": "imagenet", "model.norm": "group"}, "model.weights is imagenet, but norm is group"),
    ({"model.frozen_stages": 2}, "model.frozen_stages is 2, but weights is null"),
    ({"model.head_channels": 20}, "model.head_channels is 20, with head_norm: group it must be a multiple of 8"),
    (
        {"data.shapes.min_size": 12, "data.shapes.max_size": 8, "data.shapes.image_size": 64},
        "data.shapes.min_size 12 <= max_size 8 <= image_size 64 must hold",
    ),
    ({"data.format": "coco"}, "data.train.annotations and train.images must be given with data.format coco"),
    ({"data.format": "voc"}, "data.train.annotations must be given with data.format voc"),
    ({"data.classes": ["a", "a"]}, "data.classes names a class twice"),
    ({"transforms.scale_jitter": [1.5, 0.5]}, "transforms.scale_jitter is [1.5, 0.5]; give the smaller factor first"),
]


def test_splits_that_prepare_cuts_may_be_null(tmp_path: Path) -> None:
    files = {"annotations": "train.json", "images": "."}
    changes = {"data.format": "coco", "data.train": files, "data.val": None, "data.test": None, "data.split.test": 0.1}
    content = shipped()
    for dotted, value in changes.items():
        put(content, dotted, value)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert load_params(tmp_path / "params.yaml").data.val is None


@pytest.mark.parametrize(("changes", "sentence"), TOGETHER, ids=[sentence[:40] for _, sentence in TOGETHER])
def test_values_that_do_not_go_together_are_told(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    content = shipped()
    for dotted, value in changes.items():
        put(content, dotted, value)
    assert complaint_about(content, tmp_path).startswith(sentence)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"params\.yaml does not exist; run from the folder of dvc\.yaml"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"), [("a: [", "is not valid YAML"), ("- a", "holds list"), ("", "holds NoneType")]
)
def test_file_that_is_no_mapping_is_told(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_params(tmp_path / "params.yaml")


def test_flatten_joins_keys_with_dots_and_leaves_lists_alone() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}) == {"a.b.c": 1, "a.d": [1, 2], "e": None}
    assert flatten({}) == {}


def test_every_section_is_one_of_the_file() -> None:
    assert list(Params.model_fields) == list(shipped()) == ["seed", *SECTIONS, "sweep"]


# ---- how much a check costs ------------------------------------------------------------------------------------------


def test_checking_the_file_imports_neither_torch_nor_ray_nor_mlflow() -> None:
    code = (
        "import sys; from pipeline.params import load_params; import pipeline.params.runtime; load_params()\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'dvc'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_says_what_it_reads_and_writes(stage: str) -> None:
    command = [sys.executable, "-m", f"pipeline.{stage}", "--help"]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "reads    params.yaml" in answer.stdout
    assert "writes   " in answer.stdout
