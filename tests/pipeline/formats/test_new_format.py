"""The reader that docs/formats.md shows works, with the names of the rooms it stands on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats import READERS, read_splits, records, root
from pipeline.formats.readers import Reader

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/formats.md"


def test_example_of_the_documents_reads_a_data_set(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(def read_lines.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = {**vars(records), **vars(root)}
    exec("from __future__ import annotations\n" + code, names)
    monkeypatch.setitem(READERS, "lines", Reader(names["read_lines"], lambda own, paths: []))
    source.write("images/a.png", source.png())
    source.write("train.txt", "a.png 1 2 4 6 rod\na.png 0 0 2.5 2 disc\n")
    splits, notes = read_splits("lines", str(source.root), {"train": records.SplitFiles("train.txt", "images")})
    coco = splits["train"].coco
    assert notes == []
    assert [(category["id"], category["name"]) for category in coco["categories"]] == [(1, "disc"), (2, "rod")]
    assert [(box["category_id"], box["bbox"]) for box in coco["annotations"]] == [
        (2, [1, 2, 3, 4]),
        (1, [0, 0, 2.5, 2]),
    ]
