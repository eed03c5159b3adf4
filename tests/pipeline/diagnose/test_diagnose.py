"""Laws of diagnose: each cause is planted and named first; what is sound gets no cause."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.diagnose.__main__ import main
from pipeline.diagnose.evidence import Cause, Evidence, FirstStep, SplitCounts, Trained
from pipeline.diagnose.run import collect, find_causes, report
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from retinanet.inference.detector import build_network
from retinanet.inference.detector_file import load_detector, save_detector

ROOT = Path(__file__).resolve().parents[3]
PAPER = -math.log(0.99)
NAMES = {"cell": 40, "virus": 30}
FINE: list[dict[str, float | None]] = [
    {"epoch": 1, "step": 500, "loss": 1.0},
    {"epoch": 2, "step": 1000, "loss": 0.4},
]


def params_with(**sections: dict[str, Any]) -> Any:
    params = load_params(ROOT / "params.yaml")
    return params.model_copy(
        update={name: getattr(params, name).model_copy(update=values) for name, values in sections.items()}
    )


def trained(**changes: Any) -> Trained:
    model = {"frozen_stages": 0, "weights": None}
    return replace(Trained(list(NAMES), model, highest=0.8, share=0.01, train_ap=0.4, test_ap=0.2), **changes)


def evidence(**changes: Any) -> Evidence:
    """Of a training in which all is well."""
    splits = {name: SplitCounts(20, dict(NAMES)) for name in ("train", "test")}
    sound = Evidence(
        load_params(ROOT / "params.yaml"), "test", splits, 8, None, FirstStep(PAPER, PAPER), FINE, trained()
    )
    return replace(sound, **changes)


def history(*losses: float, step: int = 1000) -> list[dict[str, float | None]]:
    return [{"epoch": n, "step": n * step / len(losses), "loss": loss} for n, loss in enumerate(losses, 1)]


EMPTY, FULL = SplitCounts(20, {"cell": 0, "virus": 0}), SplitCounts(20, dict(NAMES))
PLANTED: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"splits": {"train": EMPTY, "test": FULL}}, "data.train.annotations"),
    "nothing to find": ({"splits": {"train": FULL, "test": EMPTY}}, "evaluate.split"),
    "classes not trained": (
        {
            "splits": {
                "train": SplitCounts(20, {"cell": 40, "virus": 0}),
                "test": SplitCounts(9, {"cell": 0, "virus": 9}),
            }
        },
        "data.classes",
    ),
    "other classes": ({"trained": trained(class_names=["virus", "cell"])}, "data.classes"),
    "frozen random weights": (
        {"trained": trained(model={"frozen_stages": 2, "weights": None}, train_ap=0.0, test_ap=0.0)},
        "model.frozen_stages",
    ),
    "norm of one image": ({"params": params_with(model={"norm": "batch"}), "images_per_pass": 1}, "model.norm"),
    "loss at the first step": (
        {"params": params_with(model={"prior": 0.5}), "first_step": FirstStep(math.log(2), PAPER)},
        "model.prior",
    ),
    "alpha takes one side": ({"params": params_with(loss={"alpha": 1.0})}, "loss.alpha"),
    "learning rate too high": ({"history": history(0.9, 1.2, 40.0)}, "optim.lr"),
    "learning rate too low": ({"history": history(1.13, 1.12, 1.11)}, "optim.lr"),
    "too few steps": ({"history": history(1.0, 0.5, step=40)}, "train.epochs"),
    "threshold above all scores": (
        {"params": params_with(postprocess={"score_threshold": 0.9}), "trained": trained(train_ap=0.0, test_ap=0.0)},
        "postprocess.score_threshold",
    ),
    "everything is background": ({"trained": trained(highest=0.03, train_ap=0.0, test_ap=0.0)}, "train.epochs"),
    "splits differ": ({"trained": trained(train_ap=0.7, test_ap=0.0)}, "transforms.scale_jitter"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_cause_is_the_only_one_and_names_its_setting(name: str) -> None:
    changes, setting = PLANTED[name]
    (cause,) = find_causes(evidence(**changes))
    assert cause.name == name
    assert setting in cause.settings or re.search(rf"\b{setting}\b", cause.remedy)


def test_a_sound_training_has_no_cause() -> None:
    assert find_causes(evidence()) == []
    assert find_causes(evidence(first_step=None, history=[], trained=None)) == []


def test_loss_that_is_no_number_is_a_rate_too_high() -> None:
    (cause,) = find_causes(evidence(history=history(0.9, math.nan)))
    assert cause.name == "learning rate too high"
    assert cause.settings["optim.lr"] == pytest.approx(load_params(ROOT / "params.yaml").optim.lr / 10)


@pytest.mark.parametrize(("likelihood", "first"), [(0.6, "Most likely: a. "), (0.4, "Possible: a. ")])
def test_only_what_follows_is_also_possible(likelihood: float, first: str) -> None:
    lines = list(report([Cause("a", likelihood, "Found.", "Do."), Cause("b", 0.3, "Found.", "Do.")]))
    assert lines[1].startswith(first) and lines[3].startswith("Also possible: b. ")


def test_causes_come_by_their_likelihood() -> None:
    changes, _ = PLANTED["too few steps"]
    changes |= {"trained": trained(class_names=["other"]), "params": params_with(loss={"alpha": 0.0})}
    assert [cause.name for cause in find_causes(evidence(**changes))] == [
        "other classes",
        "alpha takes one side",
        "too few steps",
    ]


# ---- measured in a project ----


def change(**sections: dict[str, Any]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in sections.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def causes(pictures: int = 4) -> list[str]:
    found = find_causes(collect(load_params(), load_runtime(), model=Path("models/model.pt"), pictures=pictures))
    return [cause.name for cause in found]


@pytest.mark.usefixtures("project")
def test_the_head_begins_at_the_prior_of_params() -> None:
    """An untrained head gives every anchor the prior, up to what its random weights add: -log(1 - 0.01) = 0.01."""
    change(model={"prior": 0.01})
    first = collect(load_params(), load_runtime(), model=Path("none.pt"), pictures=2).first_step
    assert first is not None and first.loss == pytest.approx(PAPER, rel=0.2) and first.expected == PAPER
    change(model={"prior": 0.5})
    first = collect(load_params(), load_runtime(), model=Path("none.pt"), pictures=2).first_step
    assert first is not None and first.loss == pytest.approx(math.log(2), rel=0.2)
    assert causes() == ["loss at the first step"]


@pytest.mark.usefixtures("project")
def test_anchors_that_miss_all_boxes_are_found_and_named_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    change(model={"prior": 0.01}, anchors={"base_scale": 40.0})
    main(["--pictures", "2"])
    printed = capsys.readouterr().out
    assert "100 % of the boxes of train" in printed
    assert "\nMost likely: boxes without anchors. " in printed
    assert "\n  dvc exp run -S anchors.mode=fitted\n" in printed
    assert "model: there is none yet" in printed


@pytest.mark.usefixtures("project")
def test_labels_that_are_gone_are_found() -> None:
    change(model={"prior": 0.01})
    path = Path("data/prepared/train.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    assert causes() == ["no labels"]
    change(anchors={"mode": "fitted"})
    assert causes() == ["no labels"]


@pytest.mark.usefixtures("untrained")
def test_scores_and_ap_of_the_model_are_measured() -> None:
    """Random weights of prior 0.2 score around 0.2 everywhere and find nothing; a prior of 0.001 stays silent."""
    change(model={"prior": 0.01}, postprocess={"score_threshold": 0.9})
    found = collect(load_params(), load_runtime(), model=Path("models/model.pt"), pictures=3).trained
    assert found is not None and 0.05 < found.highest < 0.9 and found.share > 0.9 and found.train_ap == 0.0
    assert causes() == ["threshold above all scores"]

    _, description = load_detector(Path("models/model.pt"))
    description["model"]["prior"] = 0.001
    torch.manual_seed(0)
    save_detector(Path("models/model.pt"), build_network(description).state_dict(), description)
    change(postprocess={"score_threshold": 0.05})
    assert causes() == ["everything is background"]


@pytest.mark.usefixtures("project")
def test_norm_that_sees_one_image_depends_on_conf() -> None:
    change(model={"prior": 0.01, "norm": "batch"})
    assert causes() == []
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text()) | {"images_per_step": 1}
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))
    assert causes() == ["norm of one image"]


@pytest.mark.usefixtures("project")
def test_frozen_stages_without_weights_are_refused_by_name() -> None:
    change(model={"frozen_stages": 2})
    with pytest.raises(ValueError, match="frozen_stages is 2, but weights is null"):
        main([])


@pytest.mark.usefixtures("project")
def test_missing_data_are_named() -> None:
    shutil.rmtree("data/prepared")
    with pytest.raises(ValueError, match=r"data/prepared/train\.json does not exist"):
        main([])
    with pytest.raises(ValueError, match="--pictures is 0"):
        main(["--pictures", "0"])
