"""Laws of params.schema.json: of today's declarations, and at one with them about what params.yaml may hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.params import Params, load_params
from pipeline.params.schema import SCHEMA, build_schema, spell_schema

ROOT = Path(__file__).resolve().parents[2]
LINE = "# yaml-language-server: $schema=params.schema.json\n"
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
SWEEPS = sorted((ROOT / "presets/sweeps").glob("*.yaml"))


def shipped() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert isinstance(content, dict)
    return content


def judge(content: Any) -> list[str]:
    """What an editor would underline."""
    validator = jsonschema.Draft202012Validator(build_schema())
    return [error.message for error in validator.iter_errors(content)]


def test_the_file_is_that_of_the_declarations() -> None:
    jsonschema.Draft202012Validator.check_schema(build_schema())
    assert (ROOT / SCHEMA).read_text() == spell_schema(), "make schema"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_params_and_presets_are_valid(path: Path) -> None:
    assert judge(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_presets_of_sweeps_are_valid_as_the_section(path: Path) -> None:
    assert judge(shipped() | yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("loss", "gama", 2.0),  # no such key
        ("loss", "gamma", -1.0),
        ("loss", "class_loss", "cross_entropy"),
        ("optim", "lr", "fast"),
        ("train", "batch_size", 0),
        ("transforms", "mean", [0.5, 0.5]),
    ],
)
def test_what_the_declarations_refuse_an_editor_underlines(section: str, key: str, value: Any) -> None:
    content = copy.deepcopy(shipped())
    content[section][key] = value
    assert len(judge(content)) == 1
    with pytest.raises(ValueError, match="validation error"):
        Params.model_validate(content)


def test_missing_key_is_underlined() -> None:
    content = shipped()
    del content["matcher"]["low_quality"]
    assert judge(content) == ["'low_quality' is a required property"]


def test_string_below_a_field_is_its_description() -> None:
    schema = build_schema()
    assert schema["$defs"]["Train"]["properties"]["batch_size"]["description"] == "Global: split over the workers."
    assert "title" not in schema["$defs"]["Train"]["properties"]["batch_size"]


def test_params_yaml_names_its_schema_in_a_comment_that_changes_no_parameter(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert text.startswith(LINE)
    (tmp_path / "params.yaml").write_text(text.removeprefix(LINE))
    assert load_params(tmp_path / "params.yaml") == load_params(ROOT / "params.yaml")
