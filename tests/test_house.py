"""The plan of the house, kept: walls, floors, doors, dvc.yaml that hides nothing, and how a room looks.

The source is read with ast, not imported, so an import inside a function counts like one at the top. A room is a
module or a folder directly under a package; inside a folder its files are one room. ruff and mypy say the rest.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("retinanet", "pipeline")

# A new folder of the detector gets its floor here.
FLOORS = (
    {"anchors", "network", "evaluation"},
    {"losses", "data"},
    {"training", "inference"},
)
STAGES = ("manifest", "prepare", "anchor_stats", "train", "evaluate")
# Every other room of the pipeline is a door or a help to these.
COMMANDS = ("compare", "diagnose", "sweep", "predict", "serve", "import_weights", "export", "replay", "clean", "ui")
COMMANDS += ("__main__",)

DETECTOR_LIBRARIES = {"torch", "torchvision", "numpy", "PIL", "fsspec", "hotcoco", "triton", "simplejpeg"}
# Each outside world and the rooms that may import it.
DOORS = {
    "hotcoco": {"retinanet.evaluation"},  # the rest of the detector runs where only torch and torchvision do
    "simplejpeg": {"retinanet.data"},  # without it Pillow decodes the same pixels
    "onnx": {"pipeline.export"},
    "onnxruntime": {"pipeline.export"},
    "onnxscript": {"pipeline.export"},
    "triton": {"retinanet.losses"},  # torch brings it on Linux; without it the plain form runs
    "ray": {"pipeline.cluster", "pipeline.sweep", "pipeline.predict", "pipeline.serve"},
    "ray.data": {"pipeline.predict"},  # not in cluster, on which train and evaluate depend
    "ray.train": {"pipeline.cluster"},
    "ray.serve": {"pipeline.serve"},
    "starlette": {"pipeline.serve"},
    "ray.tune": {"pipeline.sweep"},
    "mlflow": {"pipeline.tracking"},
    "ruamel": {"pipeline.params"},  # reads params.yaml and conf/, and sets values in them
    "yaml": set(),  # another reading of the same file than DVC's
    "dvc": set(),
    "dvclive": set(),
    "retinanet.anchors.dense_matcher": set(),  # states the rule, for readers and tests; match_anchors is its fast twin
}
# No stage depends on these, nor on what only they import: DVC follows the values of params.yaml, and neither what is
# logged nor how a command ends changes a result.
NOT_DEPENDENCIES = {"pipeline.params", "pipeline.tracking", "pipeline.cli"}

MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60
MAX_DEPS = 14  # of a stage in dvc.yaml
MAX_NESTING = 3  # two is the aim; comprehensions do not count
BANNED_NAMES = {"util", "utils", "misc", "common", "base", "helper", "helpers", "manager"}


class Import(NamedTuple):
    """One imported name, in full: `from ray import train` is ray.train."""

    name: str
    line: int


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports_of(tree: ast.Module, where: str = "source") -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}:{node.lineno}: write the import in full: from pipeline.x import y"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def room_of(name: str) -> str:
    """'retinanet.anchors.boxes.decode_boxes' lies in 'retinanet.anchors'; a package's own file in 'retinanet'."""
    return ".".join(name.split(".")[:2])


def room_of_file(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return room_of(".".join(part for part in parts if part != "__init__"))


@cache
def trees() -> dict[Path, ast.Module]:
    """The source of both packages, parsed."""
    return {path: ast.parse(path.read_text()) for path in python_files(*PACKAGES)}


@cache
def imports() -> dict[Path, list[Import]]:
    return {path: list(imports_of(tree, place(path))) for path, tree in trees().items()}


@cache
def graph() -> dict[str, set[str]]:
    """Room -> the other rooms that it imports, over both packages."""
    rooms: dict[str, set[str]] = {}
    for path, names in imports().items():
        entered = {room_of(name) for name, _ in names if name.partition(".")[0] in PACKAGES}
        rooms.setdefault(room_of_file(path), set()).update(entered - {room_of_file(path)})
    return rooms


def closure(stage: str) -> set[str]:
    """Every room that a stage enters, itself included."""
    entered: set[str] = set()
    ahead = {f"pipeline.{stage}"}
    while ahead:
        room = ahead.pop()
        entered.add(room)
        ahead |= graph().get(room, set()) - entered - NOT_DEPENDENCIES - set(PACKAGES)
    return entered


def place(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(ROOT)}" if line is None else f"{path.relative_to(ROOT)}:{line}"


def room_path(room: str) -> str:
    """As dvc.yaml names it: the folder of a room that is one, else its file."""
    path = room.replace(".", "/")
    return path if (ROOT / path).is_dir() else f"{path}.py"


def demand_none(complaints: Iterable[str]) -> None:
    """Fail with the complaints, one a line."""
    lines = list(complaints)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


# ---- the readers of this file, on made-up source ----


def test_an_import_inside_a_function_counts() -> None:
    source = "import os.path\ndef f():\n    from ray import train, tune\n    import mlflow as m\n"
    assert set(imports_of(ast.parse(source))) == {("os.path", 1), ("ray.train", 3), ("ray.tune", 3), ("mlflow", 4)}


def test_nesting_counts_blocks_and_not_elif() -> None:
    # for > if > with is 3 deep; the elif stands beside its if, and the inner function starts anew.
    source = "def f():\n for a in b:\n  if a: pass\n  elif b:\n   with c: pass\n  def g():\n   if a: pass"
    assert [nesting(function) for function in functions(ast.parse(source))] == [3, 1]


# ---- walls, floors and doors ----


def test_every_room_of_the_detector_stands_on_a_floor() -> None:
    rooms = {room.partition(".")[2] for room in graph() if is_within(room, "retinanet")} - {""}
    assert rooms == set.union(*FLOORS)


def test_ground_rooms_import_no_other_room() -> None:
    rooms = ((f"retinanet.{name}", graph().get(f"retinanet.{name}", set())) for name in sorted(FLOORS[0]))
    demand_none(
        f"{room_path(room)} stands on the ground floor and imports {sorted(other)}" for room, other in rooms if other
    )


def test_rooms_of_the_detector_import_nothing_from_above() -> None:
    floor = {f"retinanet.{name}": number for number, names in enumerate(FLOORS) for name in names}
    demand_none(
        f"{room_path(room)} imports {other}, which lies above it"
        for room in floor
        for other in sorted(graph().get(room, set()))
        if floor.get(other, 0) > floor[room]
    )


def test_no_rooms_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]), pytrace=False)


def test_stages_import_no_stage_and_doors_import_neither_stage_nor_command() -> None:
    stages, commands = ({f"pipeline.{name}" for name in names} for names in (STAGES, COMMANDS))
    demand_none(
        f"{room_path(room)} imports {other}; what both need belongs into a room below them"
        for room, others in sorted(graph().items())
        if room not in commands
        for other in sorted(others & (stages | commands))
    )


def test_each_outside_world_has_one_door() -> None:
    demand_none(
        f"{place(path, line)} imports {name}; only {sorted(rooms) or 'nobody'} may import {world}"
        for path, names in imports().items()
        for name, line in names
        for world, rooms in DOORS.items()
        if is_within(name, world) and room_of_file(path) not in rooms
    )


def test_the_detector_imports_only_its_libraries() -> None:
    allowed = DETECTOR_LIBRARIES | sys.stdlib_module_names | {"retinanet"}
    demand_none(
        f"{place(path, line)} imports {name}; the detector runs wherever {sorted(DETECTOR_LIBRARIES)} do"
        for path, names in imports().items()
        for name, line in names
        if is_within(room_of_file(path), "retinanet") and name.partition(".")[0] not in allowed
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_itself_imports_nothing(package: str) -> None:
    assert imports()[ROOT / package / "__init__.py"] == []


def test_no_import_is_hidden_from_this_file() -> None:
    demand_none(
        f"{place(path)} imports by name at run time; write an import statement"
        for path in imports()
        if re.search(r"\bimport_module\b|\b__import__\b|\brunpy\b", path.read_text())
    )


def test_the_deps_in_dvc_yaml_are_the_rooms_that_the_stage_enters() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(stages) == set(STAGES)
    demand_none(complaint for name, stage in stages.items() for complaint in wrong_deps(name, stage))


def wrong_deps(name: str, stage: dict[str, Any]) -> Iterator[str]:
    if stage["cmd"] != f"python -m pipeline.{name}":
        yield f"dvc.yaml: {name}: cmd is {stage['cmd']!r}, expected 'python -m pipeline.{name}'"
    deps = [dep if isinstance(dep, str) else next(iter(dep)) for dep in stage.get("deps", [])]
    listed = {dep.rstrip("/") for dep in deps if dep.partition("/")[0] in PACKAGES}
    entered = {room_path(room) for room in closure(name)}
    detector = {f"retinanet/{folder}" for folder in set.union(*FLOORS)}
    if detector <= entered:
        entered = entered - detector | {"retinanet"}
    if len(deps) > MAX_DEPS:
        yield f"dvc.yaml: {name} has {len(deps)} deps; a stage names folders, at most {MAX_DEPS}"
    yield from (f"dvc.yaml: {name}: add to deps:    - {path}" for path in sorted(entered - listed))
    yield from (f"dvc.yaml: {name}: take from deps: - {path}" for path in sorted(listed - entered))


# ---- how a room looks ----


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def nesting(node: ast.AST) -> int:
    """Depth of the blocks below a node; an elif is no deeper than its if."""
    block = ast.For | ast.AsyncFor | ast.While | ast.If | ast.With | ast.AsyncWith | ast.Try | ast.Match
    depths = [0]
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        depths.append(nesting(child) + (isinstance(child, block) and not is_elif))
    return max(depths)


def test_a_room_past_300_lines_becomes_a_folder() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in python_files(*PACKAGES, "tests", "bench")}
    demand_none(f"{place(path)} has {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES)


def test_functions_are_short_and_flat() -> None:
    sizes = (
        (
            place(path, function.lineno),
            function.name,
            (function.end_lineno or 0) - function.lineno + 1,
            nesting(function),
        )
        for path, tree in trees().items()
        for function in functions(tree)
    )
    demand_none(
        f"{where} {name} has {lines} lines and {depth} levels of blocks"
        for where, name, lines, depth in sizes
        if lines > MAX_FUNCTION_LINES or depth > MAX_NESTING
    )


def test_modules_and_public_functions_and_classes_say_what_they_are_for() -> None:
    documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    nodes = [(path, node) for path, tree in trees().items() for node in tree.body if isinstance(node, documented)]
    demand_none(f"{place(path)} has no docstring" for path, tree in trees().items() if not ast.get_docstring(tree))
    demand_none(
        f"{place(path, node.lineno)} {node.name} has no docstring"
        for path, node in nodes
        if not node.name.startswith("_") and not ast.get_docstring(node)
    )


def test_a_room_is_named_after_what_it_holds() -> None:
    demand_none(
        f"{place(path)}: name it after what it holds"
        for path in python_files(*PACKAGES, "tests", "bench")
        for part in path.relative_to(ROOT).with_suffix("").parts
        if BANNED_NAMES & set(part.split("_"))
    )
