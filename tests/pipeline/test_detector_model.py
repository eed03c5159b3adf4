"""Laws of the detector that a command names: a file or a URL, and one sentence where there is none."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch

from pipeline.detector.model import find_weights, load_model
from tests.servers import running_web


def test_model_is_a_file_or_a_url(untrained: Path) -> None:
    path = untrained / "models/model.pt"
    for name in (str(path), f"file://{path}"):
        detector = load_model(name, torch.device("cpu"))
        assert detector.class_names == ["disc", "square", "triangle"]


def test_model_of_a_web_server_is_asked_for_once_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, content = tmp_path / "web", b"0" * 3_000_000
    folder.mkdir()
    digest = hashlib.sha256(content).hexdigest()
    for name in (f"cells-{digest[:8]}.pt", "cells-0123abcd.pt"):
        (folder / name).write_bytes(content)
    with running_web(folder) as (address, asked):
        url = f"{address}/cells-{digest[:8]}.pt?version=3"
        assert find_weights(url, tmp_path / "got").read_bytes() == content
        assert capsys.readouterr().out.startswith(f"--model: downloading {url} (3.0 MB) to ")
        with pytest.raises(ValueError, match=rf"^--model: .* has the SHA-256 {digest[:16]}.*promises 0123abcd"):
            find_weights(f"{address}/cells-0123abcd.pt", tmp_path / "got")
        asked.clear()
        with pytest.raises(ValueError, match=rf"^--model: {address}/none\.pt cannot be downloaded \(HTTP status 404\)"):
            find_weights(f"{address}/none.pt", tmp_path / "got")
    assert len(asked) <= 2  # HEAD, and GET where that is refused
    assert [path.name for path in (tmp_path / "got").iterdir()] == [f"cells-{digest[:8]}.pt"]


@pytest.mark.parametrize("name", ["file:///nowhere/model.pt", "nostore://a/model.pt"])
def test_url_without_a_model_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--model: {re.escape(name)} cannot be downloaded "):
        find_weights(name, tmp_path)
