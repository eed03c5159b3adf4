"""Laws of what export --onnx reads, without onnxruntime."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.export.files import CHECKED, find_pictures
from pipeline.storage.outs import write_json


@pytest.mark.parametrize("root", ["s3://bucket/cells", "https://host/cells/", "/data/cells"])
def test_pictures_for_the_check_are_where_the_prepared_file_says(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [{"file_name": f"a/{number}.jpg"} for number in range(CHECKED + 1)]
    write_json(Path("data/prepared/test.json"), {"info": {"root": root}, "images": images})
    assert find_pictures([])[1:] == [f"{root.rstrip('/')}/a/{number}.jpg" for number in range(1, CHECKED)]
