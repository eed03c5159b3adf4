"""Mistakes that were made once, kept out of the source of both packages."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("retinanet", "pipeline")
DECODER = ROOT / "retinanet/data/pixels.py"


def sources() -> dict[Path, ast.Module]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path: ast.parse(path.read_text()) for path in paths}


def decodes(call: ast.Call) -> bool:
    """Whether a call opens a picture, or makes RGB of one."""
    text = ast.unparse(call)
    return text.startswith("Image.open(") or text.endswith(".convert('RGB')")


def test_a_call_that_decodes_is_recognised() -> None:
    calls = [node for node in ast.walk(ast.parse("Image.open(file).convert('RGB')")) if isinstance(node, ast.Call)]
    assert [decodes(call) for call in calls] == [True, True]


def test_pictures_are_decoded_in_one_module() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} decodes a picture; call {DECODER.relative_to(ROOT)}, as all others do"
        for path, tree in sources().items()
        if path != DECODER
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and decodes(node)
    ]
    assert not found, "\n".join(found)
