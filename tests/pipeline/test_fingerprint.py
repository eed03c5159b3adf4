"""Laws of the code's digest: what Python ignores leaves it alone, what computes changes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs import fingerprint
from pipeline.runs.fingerprint import describe_code, digest_code, digest_source, format_changes

SOURCE = '''"""The module."""

import math

SCALE = 0.001
"""Of the loss."""


class Loss:
    """The loss."""

    weight: float = 2.0

    def value(self, x, *, power=2):
        """A value."""
        # as in the paper
        if x > 0:
            return SCALE * math.pow(x, power)
        return "none"
'''


def digest(text: str, folder: Path) -> str:
    path = folder / "loss.py"
    path.write_text(text)
    return digest_source(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        # as in the paper\n", ""),
        ("# as in the paper", "# as in equation 3"),
        ("import math\n", "import math  # the standard one\n"),
        ('"""The module."""\n', ""),
        ('"""A value."""', '"""The value at x."""'),
        ('"""Of the loss."""\n', ""),
        ("\n\nclass", "\n\n\n\n\nclass"),
        ("SCALE * math.pow(x, power)", "(SCALE\n                * math.pow(x,power))"),
        ('"none"', "'none'"),
        ("0.001", "1e-3"),
        ("\n", "\r\n"),
    ],
)
def test_comment_docstring_and_spelling_keep_the_digest(old: str, new: str, tmp_path: Path) -> None:
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new), tmp_path) == digest(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("            return SCALE", "            y = 1\n            return SCALE"),
        ("power=2", "power=3"),
        ("0.001", "0.002"),
        ("2.0", "2"),
        ("x > 0", "x >= 0"),
        ('"none"', '"None"'),
        ("math.pow", "math.fmod"),
        ("def value", "def values"),
        ("    weight: float = 2.0\n", ""),
        ('return "none"', '"none"'),
        ("import math", "import cmath as math"),
    ],
)
def test_what_computes_changes_the_digest(old: str, new: str, tmp_path: Path) -> None:
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new), tmp_path) != digest(SOURCE, tmp_path)


@given(
    numbers=st.lists(st.integers(0, 2), min_size=2, max_size=2),
    comments=st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r\x0c\x00")), min_size=2, max_size=2),
)
def test_digest_follows_the_values_and_no_comment(
    numbers: list[int], comments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("code")
    first, second = (
        digest(f"# {comment}\nx = {number}\n", folder) for number, comment in zip(numbers, comments, strict=True)
    )
    assert (first == second) == (numbers[0] == numbers[1])


def test_file_that_is_not_python_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss\.py:2 is not valid Python \(.*\); fix it"):
        digest("x = 1\ndef f(:\n", tmp_path)


# ---- files and versions together -------------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path: Path) -> dict[str, str]:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(f"name = {name!r}\n")
    return describe_code(sorted(tmp_path.glob("*.py")), root=tmp_path)


def test_code_is_its_files_and_the_versions_of_python_and_torch(code: dict[str, str]) -> None:
    assert list(code) == ["python", "torch", "a.py", "b.py"]
    assert code["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize(
    ("installed", "counted"), [("2.15.0", "2.15.0"), ("2.15.0+cpu", "2.15.0"), ("2.15.1+cu128", "2.15.1")]
)
def test_build_of_torch_does_not_count_and_its_patch_release_does(
    installed: str, counted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "version", {"torch": installed}.__getitem__)
    assert describe_code([], root=Path())["torch"] == counted


@pytest.mark.parametrize(
    "change",
    [{"torch": "2.99.0"}, {"python": "3.99"}, {"a.py": "0"}, {"c.py": "0"}],
    ids=lambda change: next(iter(change)),
)
def test_any_other_version_or_file_is_other_code(change: dict[str, str], code: dict[str, str]) -> None:
    assert digest_code(code | change) != digest_code(code)


def test_changes_name_versions_and_files() -> None:
    before = {"python": "3.11", "torch": "2.15.0", "a.py": "1", "b.py": "1", "c.py": "1"}
    after = {"python": "3.11", "torch": "2.15.1", "a.py": "1", "b.py": "2", "d.py": "1"}
    assert format_changes(before, after) == "torch 2.15.0 -> 2.15.1, b.py, c.py (removed), d.py (new)"
    assert format_changes(before, before) == ""
