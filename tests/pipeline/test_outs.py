"""Laws of the outs: what lies under a real name is whole, and every reader of JSON can read it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.outs import as_json, nest, read_json, write_atomic, write_json

REPOSITORY = Path(__file__).parents[2]

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from pipeline.storage.outs import write_atomic
def write(path):
    path.write_text("half of the new")
    os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), write)
"""


def test_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"AP": 0.5})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, {"AP": object()})

    def write_half(temporary: Path) -> None:
        temporary.write_text("half of the new")
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write_atomic(path, write_half)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("the old")
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(path)]
    answer = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False)
    assert answer.returncode == -signal.SIGKILL
    assert path.read_text() == "the old"


def test_first_write_makes_the_folder_and_leaves_one_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a/b/report.json", [1])
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["report.json"]


def test_writer_is_given_a_name_with_the_same_suffix(tmp_path: Path) -> None:
    """Matplotlib and PIL choose the format by it."""
    names: list[Path] = []
    write_atomic(tmp_path / "curve.png", lambda path: (names.append(path), path.touch()))
    assert names[0].suffix == ".png"
    assert names[0].parent == tmp_path


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    content = {"AP": float("nan"), "rows": [float("inf"), (1.5, -float("inf"))], "per_class": {1: "a"}, "n": 3}
    assert as_json(content) == {"AP": None, "rows": [None, [1.5, None]], "per_class": {"1": "a"}, "n": 3}


@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_any_content_is_read_back_but_for_what_is_not_finite(
    content: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("outs") / "a.json"
    write_json(path, content)
    strict = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert strict == read_json(path) == as_json(content)


def test_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.json does not exist; run the preceding stage"):
        read_json(tmp_path / "train.json")


@pytest.mark.parametrize("content", [b'{"images": [', b"", b'{"a": "\xff"}'])
def test_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.json is not JSON \(.*\); remove it, and run the stage"):
        read_json(tmp_path / "train.json")


def test_metrics_of_a_class_whose_name_has_dots_stay_together() -> None:
    metrics = {"AP": 0.5, "per_class.sp. nov.AP": 0.25, "per_class.sp. nov.AP50": 0.75, "per_class.rod.AP": None}
    assert nest(metrics) == {
        "AP": 0.5,
        "per_class": {"sp. nov": {"AP": 0.25, "AP50": 0.75}, "rod": {"AP": None}},
    }
    assert nest({}) == {}
