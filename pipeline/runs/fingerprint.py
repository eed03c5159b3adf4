"""Fingerprint of the code that computes a result: its syntax trees, without comments, docstrings and spacing."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

PYTHON, TORCH = "python", "torch"
HOUSE = Path(__file__).resolve().parents[2]
# The code that computes the result: other code must neither resume this run unasked nor pass for its result.
CODE = (*sorted(HOUSE.glob("retinanet/**/*.py")), *sorted(HOUSE.glob("pipeline/fit/*.py")))


def training_code() -> dict[str, str]:
    """Digests of the training code; see describe_code."""
    return describe_code(CODE, root=HOUSE)


def describe_code(paths: Iterable[Path], *, root: Path) -> dict[str, str]:
    """Return the versions of Python and torch, and the digest of each file.

    Python counts as major.minor, because its grammar, and with it the syntax tree, changes between minor versions.
    torch counts with its patch version, because a patch release may change a kernel's rounding, but without the build
    suffix (+cpu, +cu128), because a run may move to another kind of machine.

    Returns:
        {"python": "3.11", "torch": "2.15.0", "retinanet/data/pixels.py": 16 hexadecimal digits, ..}; files by path
        from `root`.

    Raises:
        ValueError: naming the file and the line, when a file is not Python.
    """
    versions = {PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}", TORCH: torch_version()}
    return versions | {path.relative_to(root).as_posix(): digest_source(path) for path in paths}


def torch_version() -> str:
    """Return the version of torch without the build suffix, and without importing torch, which takes 2 s."""
    return version(TORCH).partition("+")[0]


def digest_source(path: Path) -> str:
    """Return 16 hexadecimal digits over the syntax tree of a file without docstrings.

    Raises:
        ValueError: naming the file and the line, when it is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno} is not valid Python ({error.msg}); fix it, then run again") from None
    for node in ast.walk(tree):
        for field, statements in ast.iter_fields(node):
            if isinstance(statements, list):
                setattr(node, field, [each for each in statements if not is_text(each)])
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def is_text(node: object) -> bool:
    """Return True for a statement that is only a string: a docstring, or the description of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def digest_code(code: Mapping[str, str]) -> str:
    """Return 8 hexadecimal digits over the result of describe_code."""
    return hashlib.sha256(json.dumps(dict(code), sort_keys=True).encode()).hexdigest()[:8]


def format_changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Describe the differences of two codes: versions, and files by name; e.g. "torch 2.11.0 -> 2.12.0"."""
    versions = [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in (PYTHON, TORCH)
        if before.get(name) != after.get(name)
    ]
    names = sorted((before.keys() | after.keys()) - {PYTHON, TORCH})
    words = {(True, False): " (removed)", (False, True): " (new)", (True, True): ""}
    files = [name + words[name in before, name in after] for name in names if before.get(name) != after.get(name)]
    return ", ".join(versions + files)
