"""The private parts of libraries that we use: listed in tests/private_parts.py, used, and as they were when read."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.private_names import PUBLIC_VARIABLES, TEXTS, Text
from tests.private_parts import PARTS, Part

ROOT = Path(__file__).resolve().parents[1]
OWN = ("retinanet", "pipeline", "bench", "tests")
VARIABLE = re.compile(r"(?:RAY|TUNE|MLFLOW|DVC|OPTUNA)_[A-Z_]+")
PUBLIC = {"_asdict", "_fields", "_make", "_replace", "_exit"}  # of typing.NamedTuple and os, and documented

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def trees() -> dict[str, ast.Module]:
    """Path relative to the root -> source, of all our Python files."""
    paths = (path for folder in OWN for path in sorted((ROOT / folder).rglob("*.py")))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


@cache
def own_names() -> frozenset[str]:
    """Private names that our code defines or assigns itself, and no listed part has."""
    nodes = [node for tree in trees().values() for node in ast.walk(tree)]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assigned |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return frozenset(filter(is_private, defined | assigned)) - {part.name.rpartition(".")[2] for part in PARTS}


def private_imports(tree: ast.AST) -> Iterator[str]:
    """Full names of imports from other packages, any part of which is private."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if any(map(is_private, name.split("."))) and name.split(".")[0] not in OWN)


def private_attributes(tree: ast.AST) -> Iterator[str]:
    """Private attributes that our code reads, calls or patches and does not define."""
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.Call) and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = str(node.args[1].value) if called in ("getattr", "setattr", "hasattr") else name
        if is_private(name) and name not in own_names() | PUBLIC:
            yield name


def overrides(tree: ast.Module) -> Iterator[str]:
    """Private methods by which our classes override a library's, as module.class.method."""
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in OWN
        for alias in node.names
    }
    for node in ast.walk(tree):
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        for base in bases:
            full = imported.get(base, base)
            methods = [each.name for each in ast.iter_child_nodes(node) if isinstance(each, ast.FunctionDef)]
            yield from (f"{full}.{name}" for name in filter(is_private, methods) if overrides_library(full, name))


def overrides_library(base: str, method: str) -> bool:
    package = base.split(".")[0]
    return package in ("ray", "mlflow", "dvc", "optuna", "fsspec") and hasattr(resolve(base), method)


def resolve(name: str) -> Any:
    """The object of a dotted name; AttributeError or ImportError where there is none."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name is None or not ".".join(parts[:cut]).startswith(error.name):
                raise
            continue
        for part in parts[cut:]:
            if not hasattr(found, part) and sets_attribute(found, part):
                return None
            found = getattr(found, part)
        return found
    raise ImportError(f"there is no module {parts[0]}")


def sets_attribute(owner: Any, name: str) -> bool:
    """Whether a class sets an attribute of its instances."""
    return inspect.isclass(owner) and any(
        f"self.{name}" in inspect.getsource(each) for each in owner.__mro__ if each.__module__ != "builtins"
    )


def change_of(part: Part) -> str | None:
    """What has changed since a part was read; None where nothing has."""
    try:
        found = resolve(part.name)
    except (ImportError, AttributeError) as error:
        return f"is gone ({error})"
    if part.expects is None:
        return None
    came = tuple(inspect.signature(found).parameters)
    return None if came == part.expects else f"takes ({', '.join(came)}), expected ({', '.join(part.expects)})"


def change_of_text(text: Text) -> str | None:
    """What has changed since a name was read in a library's file; None where nothing has."""
    package, _, rest = text.source.partition("/")
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    path = Path((spec.submodule_search_locations or [""])[0]) / rest
    files = sorted(path.glob("main.*.js")) if path.is_dir() else [path]
    if not any(text.text in file.read_text(errors="replace") for file in files if file.is_file()):
        return f"is no longer in {text.source}"
    return None


def report(name: str, part: Part | Text, change: str) -> str:
    """One sentence."""
    installed = importlib.import_module(part.read_in.split()[0]).__version__
    return (
        f"{name} {change} in version {installed}; it was read in {part.read_in} and is used by "
        f"{', '.join(part.users)} ({part.reason}); read the new source, adapt them, and update tests/private_parts.py"
    )


# ---- laws ----


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_private_part_is_as_it_was_read(part: Part) -> None:
    change = change_of(part)
    assert change is None, report(part.name, part, str(change))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text.text}-{text.users[0]}")
def test_name_is_where_the_library_reads_it(text: Text) -> None:
    change = change_of_text(text)
    assert change is None, report(text.text, text, str(change))


def test_no_private_name_is_used_that_is_not_listed() -> None:
    found = [
        f"{path} uses {name}; take a public way, or list it in tests/private_parts.py with its reason"
        for path, tree in trees().items()
        for name in {*private_imports(tree), *private_attributes(tree), *overrides(tree)}
        if not any(path in part.users and name.rpartition(".")[2] in part.name.split(".") for part in PARTS)
    ]
    assert not found, "\n".join(found)


def test_no_variable_of_a_library_is_set_that_is_not_listed() -> None:
    known = {(user, text.text) for text in TEXTS for user in text.users}
    found = [
        f"{path} names {node.value}; list it in tests/private_names.py"
        for path, tree in trees().items()
        if path.startswith("pipeline/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value)
        if node.value not in PUBLIC_VARIABLES and (path, node.value) not in known
    ]
    assert not found, "\n".join(found)


def test_what_is_listed_is_used() -> None:
    texts = [(text.text, user) for text in TEXTS for user in text.users]
    parts = [(part.name.rpartition(".")[2], user) for part in PARTS for user in part.users]
    unused = [
        f"{user} does not use {name}; take it from tests/private_parts.py"
        for name, user in (*texts, *parts)
        if name not in (ROOT / user).read_text()
    ]
    assert not unused, "\n".join(unused)


# ---- the readers of this file, on made-up source ----


def test_private_names_are_found_where_they_hide() -> None:
    source = (
        "import ray._private.x\nfrom mlflow.y import _z\ndef f():\n getattr(a, '_gone')\n b._hidden()\n c._asdict()"
    )
    tree = ast.parse(source)
    assert set(private_imports(tree)) == {"ray._private.x", "mlflow.y._z"}
    assert set(private_attributes(tree)) == {"_gone", "_hidden"}


def test_part_that_a_library_changes_is_one_sentence() -> None:
    changed = Part("json.dumps", ("a.py",), "it is quick", "json 1.0", ("obj",))
    assert str(change_of(changed)).startswith("takes (obj, skipkeys,")
    assert str(change_of(Part("json.dumped", (), "", "json 1.0"))).startswith("is gone (")
    assert report("json.dumps", changed, "is gone").startswith(
        "json.dumps is gone in version 2.0.9; it was read in json"
    )
