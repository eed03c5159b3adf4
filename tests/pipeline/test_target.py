"""Laws of evaluate.working_point in params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.params import load_params

REPOSITORY = Path(__file__).parents[2]


def write_params(folder: Path, value: object) -> Path:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["evaluate"]["working_point"] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / "params.yaml"


@pytest.mark.parametrize("value", ["best", 0.9, {"precision": 0.9, "recall": 0.8}, {"f1": 0.5}, {"recall": 0}])
def test_wrong_working_point_is_told_in_one_sentence(value: object, tmp_path: Path) -> None:
    path = write_params(tmp_path, value)
    with pytest.raises(ValueError, match="working_point") as caught:
        load_params(path)
    expected = "expected f1, {precision: P} or {recall: R}, with one number above 0 and at most 1"
    assert str(caught.value) == f"{path}: evaluate.working_point is {value!r}: {expected}"


@pytest.mark.parametrize("value", ["f1", {"precision": 0.9}, {"recall": 1.0}])
def test_working_point_has_three_forms(value: object, tmp_path: Path) -> None:
    assert load_params(write_params(tmp_path, value)).evaluate.working_point == value
