"""Laws of the documents: what they name is there, and what they repeat is as it stands in the files of settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from docs.reference import build_page
from pipeline.params.data import ByColumn, Columns, Table
from pipeline.params.experiment import Tiles
from pipeline.params.runtime import RuntimeConfig
from retinanet.anchors.grid import build_grid
from retinanet.inference.detector import build_network
from retinanet.inference.detector_file import describe_detector, save_detector

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What was true on its day stays as it was written.
DATED = {"log.md"}
FOLDERS = ("retinanet", "pipeline", "tests", "docs", "conf", "presets", "deploy", "bench")
# Dotted names that look like parameters but are files: `train.json`.
SUFFIXES = {"json", "html", "py", "md", "csv", "png", "txt", "pt", "yaml", "xml", "gz"}
# The keys of sections that are null in params.yaml.
NULL = {"transforms.tiles": Tiles, "data.columns": Columns, "data.csv": Table, "data.split.group": ByColumn}
INNER = {f"{section}.{key}" for section, declared in NULL.items() for key in declared.model_fields}


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def load(name: str) -> Any:
    return yaml.safe_load(text_of(ROOT / name))


def living() -> list[Path]:
    return [path for path in DOCUMENTS if path.name not in DATED]


def inline_code(path: Path) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(path), flags=re.MULTILINE | re.DOTALL)


def parameters(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted name of nested mappings, with its value; also those of the mappings themselves."""
    for key, value in content.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from parameters(value, f"{prefix}{key}.")


def rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(heading, cells) of every row of every table; the row under a table's names is no row."""
    heading = ""
    for line in text_of(path).splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            yield heading, [cell.strip() for cell in line.strip().strip("|").split("|")]


def names(pattern: str) -> list[tuple[str, str]]:
    """(document, match) of a pattern in the text of all documents."""
    return [(path.name, found) for path in living() for found in re.findall(pattern, text_of(path))]


def demand_none(complaints: list[str]) -> None:
    assert not complaints, "\n" + "\n".join(complaints)


def test_every_file_that_a_document_names_is_there() -> None:
    pattern = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/]")
    complaints = []
    for path in living():
        for code in inline_code(path):
            complaints += [f"{path.name}: {name}" for name in pattern.findall(code) if not list(ROOT.glob(name))]
    demand_none(complaints)


def test_the_answers_of_contributing_name_what_stands_in_the_files_beside_them() -> None:
    table = [cells[1] for heading, cells in rows(ROOT / "CONTRIBUTING.md") if heading == "Finding your way"]
    complaints = []
    for answer in table[1:]:
        codes = re.findall(r"`([^`]+)`", answer)
        files = [ROOT / code for code in codes if (ROOT / code).is_file()]
        sources = files + [path for code in codes if code.endswith("/") for path in (ROOT / code).glob("*.py")]
        text = "".join(map(text_of, sources))
        names = [code for code in codes if re.fullmatch(r"\w+(\.\w+)?", code) and ROOT / code not in files]
        complaints += [f"{name} is in none of the files named" for name in names if name.split(".")[-1] not in text]
    assert len(table) == 6
    demand_none(complaints)


def test_every_link_between_documents_leads_somewhere() -> None:
    """On the site MkDocs checks them; README and CONTRIBUTING are read on the forge."""
    links = [(path, link) for path in DOCUMENTS for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path))]
    relative = [(path, *link.partition("#")[::2]) for path, link in links if "://" not in link]
    assert len(relative) > 20
    complaints = []
    for path, name, anchor in relative:
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            complaints.append(f"{path.name}: {name}#{anchor}")
    demand_none(complaints)


def anchors_of(path: Path) -> set[str]:
    """The anchors that MkDocs and GitHub give to the headings of a document."""
    headings = re.findall(r"^#+ +(.+)$", text_of(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_has_every_parameter_once_with_its_shipped_value() -> None:
    """Against the files themselves: the page is made from the declarations."""
    page = build_page()
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", page, flags=re.MULTILINE)
    content = load("params.yaml")
    inner = {name for name, value in parameters(content) if isinstance(value, dict)}
    may_be_null = {"data.val", "data.test"}
    leaves = {name for name, _ in parameters(content)} - inner | {"sweep.space", "sweep.fixed"} | may_be_null | INNER
    leaves = {name for name in leaves if not re.match(r"sweep\.(space|fixed)\.", name)}
    assert sorted(name for name, _ in rows) == sorted([*leaves, *RuntimeConfig.model_fields])
    assert all(kind.strip() not in ("", "any") for _, kind in rows)
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []  # each has a meaning
    assert "| `optim.lr` | number > 0 | `0.012` | " in page
    assert "| `workers` | integer >= 1 or list of 2 (integer >= 1) | `1` | `1` | `[2, 4]` | `8` | `1` | " in page


def test_every_command_that_a_document_names_is_there() -> None:
    commands = names(r"python -m ((?:pipeline|bench)\.\w+)")
    assert len(commands) > 5
    places = {name: ROOT / name.replace(".", "/") for _, name in commands}
    demand_none(
        [
            f"{document}: python -m {name}"
            for document, name in commands
            if not (places[name].with_suffix(".py").exists() or (places[name] / "__main__.py").exists())
        ]
    )


def test_every_target_of_make_that_a_document_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    named = names(r"(?m)(?:`|^|&& )make ([a-z][a-z-]*)")
    assert len(named) > 5
    demand_none([f"{document}: make {name}" for document, name in named if name not in targets])


def test_every_parameter_that_a_document_names_is_one() -> None:
    params = load("params.yaml")
    known = {name for name, _ in parameters(params)} | INNER
    pattern = re.compile(rf"(?:{'|'.join(params)})(?:\.\w+)+")
    demand_none(
        [
            f"{path.name}: {code}"
            for path in living()
            for code in inline_code(path)
            if pattern.fullmatch(code) and code not in known and code.rpartition(".")[2] not in SUFFIXES
        ]
    )


def test_tables_repeat_the_conf_file_of_their_heading() -> None:
    """A table under a heading that names a file: its first cell names keys, its second repeats the value."""
    seen = 0
    complaints = []
    for path in living():
        for heading, cells in rows(path):
            file = re.search(r"conf/\w+\.yaml", heading)
            keys = re.findall(r"`(\w+)`", cells[0])
            for key in keys if file else []:
                seen += 1
                value = load(file.group()).get(key, "no such key") if file else None
                if not repeats(cells[1], value):
                    complaints.append(f"{path.name}: {key} is {cells[1]}, {file and file.group()} has {value}")
    assert seen > 5
    demand_none(complaints)


def repeats(cell: str, value: object) -> bool:
    """Whether a table's cell says the value; "s3://mine/.." is its beginning."""
    said = cell.strip("`")
    return str(value).startswith(said[:-2]) if said.endswith("..") else bool(yaml.safe_load(said) == value)


def test_a_cell_that_says_another_value_is_found() -> None:
    assert repeats("`[2, 4]`", [2, 4]) and repeats("600", 600) and repeats("`s3://a/..`", "s3://a/b")
    assert not repeats("4", [2, 4]) and not repeats("", 500) and not repeats("`s3://b/..`", "s3://a/b")


def test_yaml_of_the_documents_holds_parameters() -> None:
    known = {name for name, _ in parameters(load("params.yaml"))} | INNER
    found = [(path, yaml.safe_load(block)) for path in living() for block in blocks(path, "yaml")]
    ours = [(path, content) for path, content in found if set(content) <= set(load("params.yaml"))]
    assert len(ours) >= 3
    demand_none(
        [
            f"{path.name}: {name}"
            for path, content in ours
            for name, _ in parameters(content)
            if of_sweep(name) not in known
        ]
    )


def of_sweep(name: str) -> str:
    """The parameter that a key of sweep.space or sweep.fixed varies; any other name as it is."""
    inner = re.fullmatch(r"sweep\.(?:space|fixed)\.(.+?)(?:\.(?:choice|grid|uniform|loguniform|quniform))?", name)
    return inner[1] if inner else name


def test_what_is_drawn_is_as_in_params() -> None:
    """docs/formats.md repeats data.shapes."""
    contents = [yaml.safe_load(block) for block in blocks(ROOT / "docs/formats.md", "yaml")]
    drawn = [content["data"]["shapes"] for content in contents if "shapes" in content.get("data", {})]
    assert drawn == [load("params.yaml")["data"]["shapes"]]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A project with a model that finds something everywhere, and a picture."""
    description = describe_detector(
        model={**load("params.yaml")["model"], "fpn_channels": 16, "head_channels": 16, "head_depth": 1},
        loss=load("params.yaml")["loss"],
        transforms=load("params.yaml")["transforms"],
        anchors=build_grid(base_scale=3.0).to_dict(),
        categories=[{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
        run={"digest": "abc"},
    )
    network = build_network(description)
    torch.nn.init.constant_(network.class_head.output.bias, 1.0)
    (tmp_path / "models").mkdir()
    save_detector(tmp_path / "models/model.pt", network.state_dict(), description)
    folder = tmp_path / "data/prepared/images/test"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((96, 128, 3), dtype=np.uint8)).save(folder / "000001.png")
    return tmp_path


def test_python_of_the_readme_prints_detections(trained: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=trained, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines
    assert all(re.fullmatch(r"(disc|square) 0\.\d\d \[(\d+\.0(, )?){4}\]", line) for line in lines), lines[0]
