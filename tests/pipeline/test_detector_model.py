"""Laws of the detector that a command names: a file or a URL, and one sentence where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pipeline.detector.model import find_weights, load_model


def test_model_is_a_file_or_a_url(untrained: Path) -> None:
    path = untrained / "models/model.pt"
    for name in (str(path), f"file://{path}"):
        detector = load_model(name, torch.device("cpu"))
        assert detector.class_names == ["disc", "square", "triangle"]


@pytest.mark.parametrize("name", ["file:///nowhere/model.pt", "nostore://a/model.pt"])
def test_url_without_a_model_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--model {re.escape(name)} cannot be read: "):
        find_weights(name, tmp_path)
