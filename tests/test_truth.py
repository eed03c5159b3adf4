"""No number is asked whether it is true where None is meant, and no text gives way to a default for being empty.

0 is an id, a step, a threshold like any other: `ids[name] or place` takes it for nothing. mypy has no rule for that but
knows the type of every expression: it is asked for those that stand where Python wants only their truth. Other packages
are left out, which makes their types Any and the answer quick.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple, TypeGuard

import pytest
from mypy import api

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("retinanet", "pipeline")
OPTIONS = ["--follow-imports=skip", "--ignore-missing-imports", "--strict-optional", "--check-untyped-defs"]
OPTIONS += ["--show-column-numbers", "--config-file=", "--cache-dir=/dev/null"]

NUMBERS = {"int", "float", "complex"}
# What an expression matches -> why its falsity may stand for None.
ALLOWED = {
    r"os\.environ\.get\(": "an empty variable counts as one that is not set, as in shells",
    r"os\.cpu_count\(": "never 0",
    r".*\.read\(": "a file of the storage without content counts as none",
}


class Asked(NamedTuple):
    """An expression whose truth is asked; `default`: it gives way to this one, if falsy."""

    line: int
    text: str
    default: ast.expr | None


class Revealing(ast.NodeTransformer):
    """Puts reveal_type() around expressions, and keeps in `calls` which are where."""

    def __init__(self, asked: dict[ast.expr, Asked]) -> None:
        self.asked = asked
        self.calls: dict[ast.AST, Asked] = {}

    def visit(self, node: ast.AST) -> ast.AST:
        inner = self.generic_visit(node)
        if not isinstance(node, ast.expr) or node not in self.asked:
            return inner
        assert isinstance(inner, ast.expr)
        call = ast.Call(ast.Name("reveal_type", ast.Load()), [inner], [])
        self.calls[call] = self.asked[node]
        return call


def find_asked(tree: ast.AST) -> dict[ast.expr, Asked]:
    """The expressions of which only the truth is wanted, but for comparisons."""
    found: dict[ast.expr, Asked] = {}
    chains: set[ast.expr] = set()

    def ask(node: ast.expr, *, default: ast.expr | None = None) -> None:
        parts = node.values if isinstance(node, ast.BoolOp) else [node.operand] if is_not(node) else None
        if parts is not None:
            chains.add(node)
            for part in parts:
                ask(part)
        elif not isinstance(node, ast.Compare | ast.Constant):
            found.setdefault(node, Asked(node.lineno, ast.unparse(node), default))

    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            ask(node.test)
        elif isinstance(node, ast.comprehension):
            for condition in node.ifs:
                ask(condition)
        elif isinstance(node, ast.BoolOp) and node not in chains:  # its value is used: that of the last part
            for part in node.values[:-1]:
                ask(part, default=node.values[-1] if isinstance(node.op, ast.Or) else None)
        elif is_not(node) and node not in chains:
            ask(node)
    return found


def is_not(node: ast.AST) -> TypeGuard[ast.UnaryOp]:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def is_empty(node: ast.expr) -> bool:
    """Whether a default is None or as empty as what it replaces, which changes nothing."""
    try:
        return not ast.literal_eval(node)
    except ValueError:
        return False


def mistakes(folder: Path, sources: dict[str, str]) -> Iterator[str]:
    """A complaint for each wrong question in the sources (path -> text), which are typed in a folder."""
    asked: dict[tuple[str, int, int], Asked] = {}
    for path, source in sources.items():
        tree = ast.parse(source)
        revealing = Revealing(find_asked(tree))
        text = ast.unparse(tree := revealing.visit(tree))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        marked = [revealing.calls[node] for node in ast.walk(tree) if node in revealing.calls]
        # ast.walk meets the calls of the written text in the same order.
        for call, each in zip(reveals(ast.parse(text)), marked, strict=True):
            asked[path, call.args[0].lineno, call.args[0].col_offset] = each
    with chdir(folder):
        answers, _, _ = api.run([*sorted({path.partition("/")[0] for path in sources}), *OPTIONS])
    kinds: dict[tuple[str, int], dict[int, str]] = {}
    for path, line, column, kind in re.findall(r'(.+?):(\d+):(\d+): note: Revealed type is "(.+)"', answers):
        kinds.setdefault((path, int(line)), {})[int(column) - 1] = kind
    for (path, line_number, offset), each in asked.items():
        on_line = kinds.get((path, line_number), {})
        # mypy says the same of one line only once: an expression without an answer has that of another.
        for kind in [on_line[offset]] if offset in on_line else on_line.values():
            if is_mistake(each, members(kind)):
                yield f"{path}:{each.line}: {each.text} may be None or empty ({kind}); compare it with None"


def reveals(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reveal_type":
            yield node


def members(kind: str) -> set[str]:
    """The members of a union as mypy writes it, without what stands in brackets."""
    while (plain := re.sub(r"\[[^\[\]]*\]", "", kind)) != kind:
        kind = plain
    return {member.removeprefix("builtins.") for member in kind.split(" | ")}


def is_mistake(asked: Asked, kinds: set[str]) -> bool:
    if "None" not in kinds or any(re.match(pattern, asked.text) for pattern in ALLOWED):
        return False
    if asked.default is None:
        return bool(kinds & NUMBERS)
    return bool(kinds & (NUMBERS | {"str"})) and not is_empty(asked.default)


BEFORE = """
def number(ids: dict[str, int | None], names: list[str], note: str | None, step: float | None) -> list[int]:
    print(note or "", note or "no note", step or 0.0, len(names) or 1)
    while not (step is None or step > 0):
        names = names if note else []
    if not note and step:
        names = []
    return [ids[name] or place for place, name in enumerate(names) if name]
"""


def test_questions_that_take_0_for_none_are_found(tmp_path: Path) -> None:
    found = {complaint.partition(" may be")[0] for complaint in mistakes(tmp_path, {"pipeline/classes.py": BEFORE})}
    assert sorted(found) == [
        "pipeline/classes.py:3: note",
        "pipeline/classes.py:6: step",
        "pipeline/classes.py:8: ids[name]",
    ]


@pytest.mark.slow
def test_no_number_and_no_text_is_taken_for_none(tmp_path: Path) -> None:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = list(mistakes(tmp_path, {str(path.relative_to(ROOT)): path.read_text() for path in paths}))
    assert not found, "\n".join(found)
