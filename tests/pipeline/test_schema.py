"""params.schema.json and conf.schema.json: up to date, and in agreement with the declarations on what is valid."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from pipeline.params import Params, load_params
from pipeline.params.runtime import RuntimeConfig
from pipeline.params.schema import SCHEMAS, build_schema, format_schema

ROOT = Path(__file__).resolve().parents[2]
LINE = "# yaml-language-server: $schema=params.schema.json\n"
CONF_LINE = "# yaml-language-server: $schema=../conf.schema.json\n"
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
CONFS = sorted((ROOT / "conf").glob("*.yaml"))
SWEEPS = sorted((ROOT / "presets/sweeps").glob("*.yaml"))


def shipped() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert isinstance(content, dict)
    return content


def errors_in(content: Any, model: type[BaseModel] = Params) -> list[str]:
    """Messages of the errors that an editor underlines."""
    validator = jsonschema.Draft202012Validator(build_schema(model))
    return [error.message for error in validator.iter_errors(content)]


@pytest.mark.parametrize("path", SCHEMAS, ids=str)
def test_file_is_up_to_date(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(build_schema(SCHEMAS[path]))
    assert (ROOT / path).read_text() == format_schema(SCHEMAS[path]), "make schema"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_params_and_presets_are_valid(path: Path) -> None:
    assert errors_in(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.name)
def test_shipped_runtime_configurations_are_valid_and_name_their_schema(path: Path) -> None:
    assert path.read_text().startswith(CONF_LINE)
    assert errors_in(yaml.safe_load(path.read_text()), RuntimeConfig) == []
    wrong = yaml.safe_load(path.read_text()) | {"backend": "mpi"}
    assert len(errors_in(wrong, RuntimeConfig)) == 1


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_presets_of_sweeps_are_valid_as_the_section(path: Path) -> None:
    assert errors_in(shipped() | yaml.safe_load(path.read_text())) == []


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
    assert len(errors_in(content)) == 1
    with pytest.raises(ValueError, match="validation error"):
        Params.model_validate(content)


def test_missing_key_is_underlined() -> None:
    content = shipped()
    del content["matcher"]["low_quality"]
    assert errors_in(content) == ["'low_quality' is a required property"]


def test_string_below_a_field_is_its_description() -> None:
    schema = build_schema(Params)
    assert (
        schema["$defs"]["Train"]["properties"]["batch_size"]["description"]
        == "Global batch size, split over the workers."
    )
    assert "title" not in schema["$defs"]["Train"]["properties"]["batch_size"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_schema_is_named_in_a_comment_that_changes_no_parameter(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    assert text.startswith(LINE)
    (tmp_path / "params.yaml").write_text(text.removeprefix(LINE))
    assert load_params(tmp_path / "params.yaml") == load_params(path)
