"""Laws of the set-up: where uv looks for packages, what it says when it cannot, and the weekly job."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MAKES = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # a make that starts the tests hands them on, and names its folder
NAMES = ("UV_DEFAULT_INDEX", "UV_SYSTEM_CERTS", "PYTHONDONTWRITEBYTECODE")
# Each writes what it is called with; uv fails with eight lines where FAIL is set.
UV = """#!/bin/sh
for name in UV_DEFAULT_INDEX UV_SYSTEM_CERTS PYTHONDONTWRITEBYTECODE; do eval echo "$name=\\$$name"; done >uv.txt
if [ -n "$FAIL" ]; then for i in 1 2 3 4 5 6 7 8; do echo "error: certificate" >&2; done; exit 1; fi
"""
PYTHON = """#!/bin/sh
if [ "$3" = config ]; then if [ -n "$CONFIGURED" ]; then echo "$CONFIGURED"; else exit 1; fi
else echo "$*" >pip.txt; fi
"""


def set_up(folder: Path, **variables: str) -> tuple[dict[str, str], subprocess.CompletedProcess[str]]:
    """The variables that uv got, and what `make setup` said, with a .venv of scripts."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.txt").touch()
    for name, script in {"uv": UV, "python": PYTHON, "pip": PYTHON}.items():
        path = folder / ".venv/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key not in (*NAMES, "PIP_INDEX_URL", *MAKES)}
    done = subprocess.run(["make", "setup"], cwd=folder, env=clean | variables, capture_output=True, text=True)
    lines = (folder / "uv.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines), done


@pytest.mark.parametrize(
    ("variables", "index"),
    [
        ({}, ""),
        ({"CONFIGURED": "https://mirror.example/pypi"}, "https://mirror.example/pypi"),
        ({"CONFIGURED": "https://a.example", "PIP_INDEX_URL": "https://b.example"}, "https://b.example"),
        ({"CONFIGURED": "https://a.example", "UV_DEFAULT_INDEX": "https://c.example"}, "https://c.example"),
    ],
    ids=["none", "configuration", "variable of pip", "variable of uv"],
)
def test_uv_asks_the_index_of_pip_with_the_certificates_of_the_system(
    variables: dict[str, str], index: str, tmp_path: Path
) -> None:
    got, done = set_up(tmp_path, PYTHONDONTWRITEBYTECODE="1", **variables)
    assert got == {"UV_DEFAULT_INDEX": index, "UV_SYSTEM_CERTS": "true", "PYTHONDONTWRITEBYTECODE": ""}
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "pip.txt").exists()


def test_where_uv_cannot_install_one_sentence_says_so_and_pip_does(tmp_path: Path) -> None:
    done = set_up(tmp_path, FAIL="1")[1]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "uv cannot install from this package index; installing with pip (some minutes)"
    ]
    assert (tmp_path / "pip.txt").read_text() == "-m pip install --quiet --require-hashes -r requirements.txt\n"


def test_weekly_job_tests_the_newest_dependencies_where_a_fork_turns_it_on() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/newest-dependencies.yml").read_text())["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert [command.partition(" &&")[0] for command in commands] == ["make lock LOCK=--upgrade", ".ci/run"]
    assert "vars.TEST_NEWEST_DEPENDENCIES == 'true'" in job["if"]
