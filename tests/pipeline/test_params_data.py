"""Laws of section data: values that do not go together are told in one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.test_params import complaint_about, put, shipped

FILES: dict[str, object] = {f"data.{split}": {"annotations": "a", "images": "b"} for split in ("train", "val", "test")}
FORM = {"delimiter": ";", "quote": '"', "decimal": None}
TOGETHER: list[tuple[dict[str, object], str]] = [
    (
        {"data.split.group": {"column": "patient"}},
        "data.split.group.column is patient, but columns is null; add it to columns.names",
    ),
    (
        {
            "data.format": "csv",
            "data.columns": {"names": ["site"], "table": "t.csv", "image": None},
            "data.split.group": {"column": "patient"},
            **FILES,
        },
        "data.split.group.column is patient, but columns.names has site; add it to columns.names",
    ),
    ({"data.split.group": 5}, "data.split.group is 5: expected a regular expression, {column: NAME} or null"),
    ({"data.split.group": {"colum": "a"}}, "data.split.group is {'colum': 'a'}: expected a regular expression, {col"),
    (
        {"data.columns": {"names": ["site"], "table": "t.csv", "image": None}},
        "data.columns must be null with data.format shapes, whose images have none",
    ),
    (
        {"data.format": "voc", "data.columns": {"names": ["site"], "table": None, "image": None}, **FILES},
        "data.columns.table is null, but format voc has no columns of images; name a table",
    ),
    (
        {"data.format": "csv", "data.columns": {"names": ["a", "a"], "table": None, "image": None}, **FILES},
        "data.columns.names has a column twice",
    ),
    ({"data.csv": FORM}, "data.csv says how tables are written, but data.format is shapes; set csv to null"),
    (
        {"data.csv": FORM | {"delimiter": '"'}, "data.format": "csv", **FILES},
        "data.csv.delimiter and quote are both '\"'",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), TOGETHER, ids=[sentence[:40] for _, sentence in TOGETHER])
def test_values_that_do_not_go_together_are_told(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    content = shipped()
    for dotted, value in changes.items():
        put(content, dotted, value)
    assert complaint_about(content, tmp_path).startswith(sentence)
