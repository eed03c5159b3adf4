"""Section sweep of params.yaml and the space that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.params import Params, load_params
from pipeline.params.reading import validate
from pipeline.sweep.__main__ import chosen_sweep
from pipeline.sweep.run import check_fitted_anchors, check_patience
from pipeline.sweep.space import broken_constraint, decode, distribution, encode, grid_values, params_with

REPOSITORY = Path(__file__).parents[3]
PARAMS = REPOSITORY / "params.yaml"


def with_sweep(**changes: Any) -> Params:
    content = yaml.safe_load(PARAMS.read_text())
    content["sweep"] |= changes
    return validate(Params, content, Path("params.yaml"))


def test_the_default_space_is_alpha_gamma_and_the_matchers_thresholds() -> None:
    sweep = load_params(PARAMS).sweep
    assert sweep is not None
    assert set(sweep.space) == {"loss.alpha", "loss.gamma", "matcher.foreground_iou", "matcher.background_iou"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"space": {"loss.gama": {"uniform": [0, 1]}}}, "loss.gama is not a parameter; did you mean loss.gamma?"),
        ({"space": {"loss": {"choice": [1]}}}, "sweep.space: loss is not a parameter"),
        ({"space": {"loss.gamma": {"uniform": [2.0, 1.0]}}}, "the first number must be below the second"),
        ({"space": {"loss.gamma": {"uniform": [0.0]}}}, "expected 2 numbers"),
        ({"space": {"loss.gamma": {"loguniform": [0.0, 1.0]}}}, "a logarithm needs numbers above 0"),
        ({"space": {"loss.gamma": {"quniform": [0.0, 1.0, 0.0]}}}, "the step must be above 0"),
        ({"space": {"loss.gamma": {"normal": [0.0, 1.0]}}}, "give exactly one of choice, grid, uniform"),
        ({"space": {"loss.gamma": {"choice": []}}}, "space.loss.gamma.choice is empty"),
        ({"space": {"loss.gamma": {"uniform": [-1.0, 1.0]}}}, "sweep.space.loss.gamma: -1.0 is not a valid value"),
        ({"space": {"model.backbone": {"choice": ["resnet19"]}}}, "'resnet19' is not a valid value"),
        ({"space": {"data.root": {"choice": ["a"]}}}, "data.root is read by prepare"),
        ({"space": {"postprocess.nms_iou": {"uniform": [0.3, 0.6]}}}, "put it in sweep.postprocess"),
        ({"fixed": {"train.epoch": 2}}, "did you mean train.epochs?"),
        ({"fixed": {"train.epochs": 0}}, "sweep.fixed.train.epochs: 0 is not a valid value"),
        ({"points": [{"loss.beta": "x"}]}, "sweep.points.loss.beta: 'x' is not a valid value"),
        ({"constraints": ["loss.alpha"]}, "is not of the form"),
        ({"constraints": ["loss.alpha <= loss.bet"]}, "did you mean loss.beta?"),
        ({"space": {}, "points": []}, "there is nothing to try"),
        ({"search": "grid"}, "continuous entry"),
        ({"scheduler": "pbt", "space": {"optim.lr": {"uniform": [0.1, 0.2]}}}, "only loss and matcher"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_key_and_the_reason(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=r"params\.yaml: ") as caught:
        with_sweep(**changes)
    assert complaint in str(caught.value)


def test_pbt_refuses_trials_that_may_end_early_and_no_other_scheduler_does() -> None:
    params = with_sweep(scheduler="pbt", points=[{}, {"loss.gamma": 1.0}])
    assert params.sweep is not None
    check_patience(params, params.sweep)
    patient = params_with(params, {"train.patience": 3})
    with pytest.raises(
        ValueError, match=r"scheduler is pbt.* train\.patience is 3; set train\.patience: null in sweep\."
    ):
        check_patience(patient, params.sweep)
    with pytest.raises(ValueError, match=r"train\.patience is 2"):
        check_patience(params, params.sweep.model_copy(update={"points": [{"train.patience": 2}]}))
    check_patience(patient, params.sweep.model_copy(update={"scheduler": "asha"}))


def test_pbt_refuses_to_change_fitted_anchors_during_training() -> None:
    params = with_sweep(scheduler="pbt", space={"matcher.foreground_iou": {"uniform": [0.45, 0.6]}})
    assert params.sweep is not None
    check_fitted_anchors(params, params.sweep)
    fitted = params_with(params, {"anchors.mode": "fitted"})
    with pytest.raises(ValueError, match=r"varies matcher\.foreground_iou, but anchors\.mode is fitted"):
        check_fitted_anchors(fitted, params.sweep)
    by_points = params.sweep.model_copy(update={"space": {}, "points": [{"matcher.foreground_iou": 0.6}]})
    with pytest.raises(ValueError, match=r"set anchors\.mode: fixed in sweep\.fixed"):
        check_fitted_anchors(fitted, by_points)
    check_fitted_anchors(fitted, params.sweep.model_copy(update={"scheduler": "asha"}))
    check_fitted_anchors(fitted, params.sweep.model_copy(update={"space": {"loss.gamma": {"uniform": [0.0, 3.0]}}}))


@pytest.mark.parametrize("preset", sorted(path.name for path in (REPOSITORY / "presets/sweeps").glob("*.yaml")))
def test_the_papers_tables_fit_the_shipped_parameters(preset: str) -> None:
    sweep = chosen_sweep(load_params(PARAMS), REPOSITORY / "presets/sweeps" / preset)
    assert sweep.trials == len(sweep.points) or sweep.search == "grid"


def test_a_preset_with_another_section_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("loss: {}\nsweep: {}\n")
    with pytest.raises(ValueError, match="expected one section: sweep"):
        chosen_sweep(load_params(PARAMS), tmp_path / "wrong.yaml")


def test_a_grid_holds_both_ends_of_a_stepped_range() -> None:
    sweep = with_sweep(
        search="grid",
        space={"loss.gamma": {"quniform": [0.0, 2.0, 0.5]}, "optim.schedule": {"choice": ["cosine", "steps"]}},
        constraints=[],
    ).sweep
    assert sweep is not None
    assert grid_values(sweep) == {"loss.gamma": [0.0, 0.5, 1.0, 1.5, 2.0], "optim.schedule": ["cosine", "steps"]}


def test_whole_numbers_stay_whole() -> None:
    assert type(distribution("uniform", [1, 4]).to_external_repr(2.0)) is int


@pytest.mark.parametrize("value", [[0.5, 1.0], 3, None, True, "cosine", 0.25])
def test_decoding_undoes_encoding(value: Any) -> None:
    assert decode(encode(value)) == value


def test_what_is_trained_can_be_typed() -> None:
    assert decode(0.123456789) == 0.123457


def test_constraints_compare_parameters_and_numbers() -> None:
    values = {"a.x": 0.5, "a.y": 0.4}
    assert broken_constraint(["a.y <= a.x", "a.x < 1"], values) is None
    assert broken_constraint(["a.y <= a.x", "a.x > 0.5"], values) == "a.x > 0.5"


def test_settings_change_what_they_name_and_nothing_else() -> None:
    params = load_params(PARAMS)
    changed = params_with(params, {"loss.gamma": 1.5, "seed": 3})
    assert (changed.loss.gamma, changed.seed, params.loss.gamma) == (1.5, 3, 2.0)
    assert changed.model == params.model


def test_settings_that_cannot_be_together_are_refused() -> None:
    with pytest.raises(ValueError, match="matcher"):
        params_with(load_params(PARAMS), {"matcher.foreground_iou": 0.3})
