"""Laws of the advice: each fault gives its rule, and each command runs the experiment with valid parameters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline.evaluate.advice import advise
from pipeline.params import Params, load_params
from pipeline.params.editing import edit_yaml
from tests.made_up_analysis import figure, make_analysis, make_band, make_class, make_errors

ROOT = Path(__file__).resolve().parents[3]
PRESETS = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
COCO = [replace(make_band(0, 32, 0.1), name="s"), replace(make_band(32, 96, 0.9), name="m")]
SMALL = [*COCO, make_band(0, 16, 0.3), make_band(16, 32, 0.7), make_band(32, None, 0.9)]
EVEN = [*COCO, make_band(0, 16, 0.7), make_band(16, 32, 0.7), make_band(32, None, 0.75)]


def rows(*losses: tuple[float, float, float]) -> list[dict[str, float | None]]:
    """Epochs of loss, val_loss and AP."""
    return [
        {"epoch": epoch, "loss": loss, "val_loss": val, "AP": ap} for epoch, (loss, val, ap) in enumerate(losses, 1)
    ]


FLAT = rows((0.5, 0.5, 0.5), (0.3, 0.32, 0.6), (0.3, 0.32, 0.6))


def ending(history: list[dict[str, float | None]], **figures: float) -> list[dict[str, float | None]]:
    """A history whose last row has these figures."""
    return [*history[:-1], history[-1] | figures]


# Rule, perhaps with its sign in brackets -> the parts of an analysis and the history that have this fault alone.
FAULTS: dict[str, tuple[dict[str, Any], list[dict[str, float | None]]]] = {
    "small objects": ({"errors": make_errors(gains={"missed": 0.1}), "bands": SMALL}, FLAT),
    "missed objects": ({"errors": make_errors(gains={"missed": 0.1}), "bands": EVEN}, FLAT),
    "confused classes": ({"errors": make_errors(gains={"classification": 0.1}), "bands": SMALL}, FLAT),
    "poor boxes": ({"errors": make_errors(gains={"localisation": 0.1})}, FLAT),
    "false alarms": ({"errors": make_errors(gains={"background": 0.1})}, FLAT),
    "duplicates": ({"errors": make_errors(gains={"duplicate": 0.1})}, FLAT),
    "strict threshold": ({"classes": [make_class("cell", 0.95), make_class("virus", 0.9)]}, FLAT),
    "over-fitting": ({}, rows((0.5, 0.5, 0.5), (0.3, 0.4, 0.6), (0.2, 0.45, 0.6))),
    "over-fitting (AP)": ({}, ending(FLAT, train_AP=0.93)),
    "short training": ({}, rows((0.5, 0.5, 0.4), (0.4, 0.42, 0.5), (0.3, 0.32, 0.55))),
    "nothing learnt": ({"overall": {"AP": figure(0.001)}, "errors": make_errors(gains={"missed": 0.9})}, FLAT),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_case_with_one_fault_gets_the_advice_for_it_alone(rule: str) -> None:
    parts, history = FAULTS[rule]
    found = advise(make_analysis(**parts), load_params(ROOT / "params.yaml"), history)
    assert [one.rule for one in found] == [rule.partition(" (")[0]]


def test_a_sound_detector_gets_no_advice() -> None:
    parts = {"errors": make_errors(gains=dict.fromkeys(("missed", "background", "both"), 0.01)), "bands": SMALL}
    assert advise(make_analysis(**parts), load_params(ROOT / "params.yaml"), FLAT) == []
    assert advise(make_analysis(overall={}, classes=[]), load_params(ROOT / "params.yaml")) == []


def test_a_loss_that_is_no_number_is_not_over_fitting() -> None:
    history = rows((0.5, 0.5, 0.5), (0.3, float("nan"), 0.6))
    assert advise(make_analysis(), load_params(ROOT / "params.yaml"), history[:1] + history[1:] * 2) == []


def test_the_costliest_fault_comes_first() -> None:
    errors = make_errors(gains={"localisation": 0.05, "missed": 0.04, "duplicate": 0.06})
    found = advise(make_analysis(errors=errors), load_params(ROOT / "params.yaml"))
    assert [one.rule for one in found] == ["duplicates", "poor boxes", "missed objects"]


def test_an_unfinished_training_comes_before_its_errors() -> None:
    errors = make_errors(gains={"classification": 0.3})
    for last, first in ((0.54, "confused classes"), (0.6, "short training")):
        history = rows((0.8, 0.8, 0.5), (0.5, 0.5, last))
        found = advise(make_analysis(errors=errors, bands=EVEN), load_params(ROOT / "params.yaml"), history)
        assert found[0].rule == first and len(found) == 2
    fitted = rows((0.8, 0.8, 0.5), (0.5, 0.6, 0.6))
    assert [one.rule for one in advise(make_analysis(), load_params(ROOT / "params.yaml"), fitted)] == []


def rules_of(history: list[dict[str, float | None]]) -> list[str]:
    return [one.rule for one in advise(make_analysis(), load_params(ROOT / "params.yaml"), history)]


def test_ap_far_above_val_on_training_pictures_is_over_fitting_whatever_the_losses() -> None:
    assert rules_of(ending(FLAT, train_AP=0.74)) == []  # 0.14 above the best AP on val
    (one,) = advise(make_analysis(), load_params(ROOT / "params.yaml"), ending(FLAT, train_AP=0.9))
    assert one.finding.startswith("AP 0.90 on training pictures, 0.60 on val: ")
    assert one.gain == pytest.approx(0.15)  # half of 0.3


def test_losses_apart_are_no_over_fitting_where_ap_is_alike() -> None:
    apart = rows((0.5, 0.5, 0.6), (0.2, 0.45, 0.6))
    assert rules_of(apart) == ["over-fitting"]
    assert rules_of(ending(apart, train_AP=0.64)) == []
    (one,) = advise(make_analysis(), load_params(ROOT / "params.yaml"), ending(apart, train_AP=0.66))
    assert one.finding.startswith("AP 0.66 on training pictures, 0.60 on val; loss 0.20 in training, 0.45 on val: ")


def test_over_fitted_detector_is_not_told_to_train_longer() -> None:
    rising = rows((0.5, 0.5, 0.4), (0.4, 0.42, 0.5), (0.3, 0.32, 0.55))
    assert rules_of(ending(rising, train_AP=0.69)) == ["short training"]
    assert rules_of(ending(rising, train_AP=0.71)) == ["over-fitting"]


def test_ap_of_the_stored_detector_is_that_of_the_best_epoch() -> None:
    falling = ending(rows((0.5, 0.5, 0.6), (0.4, 0.42, 0.8), (0.3, 0.32, 0.5)), train_AP=0.9)
    assert rules_of(falling) == []  # 0.1 above that of the second epoch, 0.4 above that of the last


def settings_of(command: str) -> Iterator[tuple[str, Any]]:
    """Key and value of each -S, as a shell and then Hydra, to which DVC gives them, read them."""
    words = shlex.split(command)
    assert words[:3] == ["dvc", "exp", "run"] and set(words[3::2]) == {"-S"}
    for override in OverridesParser.create().parse_overrides(words[4::2]):
        yield override.key_or_group, plain(override.value())


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", FAULTS)
def test_commands_change_params_to_valid_ones(rule: str, path: Path, tmp_path: Path) -> None:
    parts, history = FAULTS[rule]
    (one,) = advise(make_analysis(**parts), load_params(path), history)
    assert one.commands
    for command in one.commands:
        if rule == "nothing learnt":
            assert command == "python -m pipeline.diagnose"
            continue
        settings = dict(settings_of(command))
        changed = changed_params(path, settings, tmp_path)
        assert changed != load_params(path)
        assert all(key in command for key in settings)


def changed_params(path: Path, settings: dict[str, Any], folder: Path) -> Params:
    (folder / "params.yaml").write_text(edit_yaml(path.read_text(), settings))
    return load_params(folder / "params.yaml")


def test_every_rule_is_in_the_documentation_with_a_parameter_of_each_command() -> None:
    text = (ROOT / "docs/evaluate.md").read_text()
    table = {row[0]: row[1] for row in re.findall(r"^\| ([a-z -]+) \| (.*) \|$", text, flags=re.MULTILINE)}
    for rule, (parts, history) in FAULTS.items():
        (one,) = advise(make_analysis(**parts), load_params(ROOT / "params.yaml"), history)
        keys = {key for command in one.commands if "-S" in command for key, _ in settings_of(command)}
        row = table[one.rule]
        missing = [key for key in keys if key not in row and key.rpartition(".")[2] not in row]
        assert not missing, f"{rule}: {missing}"
