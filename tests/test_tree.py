"""Laws for every file that git holds or would take: its text, and the files of settings."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))

# Folders of somebody's machine; /home/ray is the home in Ray's own images, C:/Users an example.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|work|farm|home(?!/ray\b)|(?<!:/)Users)/")
REGISTRY = re.compile(r"-{2}(?:extra-)?index-url|https?://\S+/simple\b|/opt/(?:pypi|wheels)")


@cache
def text_lines() -> list[tuple[str, str]]:
    """(place, line) of every file but pictures and arrays."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    contents = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    texts = {name: data.decode(errors="replace") for name, data in contents.items() if b"\0" not in data}
    return [(f"{name}:{n}", line.strip()) for name, text in texts.items() for n, line in enumerate(text.split("\n"), 1)]


def test_text_is_ascii() -> None:
    foreign = [f"{where} {line!a}" for where, line in text_lines() if not line.isascii()]
    assert not foreign, "\n".join(foreign)


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["path", "registry"])
def test_nothing_of_one_machine_stands_in_the_tree(pattern: re.Pattern[str]) -> None:
    found = [f"{where} {line}" for where, line in text_lines() if pattern.search(line)]
    assert not found, "\n".join(found)


def test_there_is_a_preset() -> None:
    assert PRESETS


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.name)
def test_params_and_presets_load(path: Path) -> None:
    load_params(path)


def test_all_conf_files_have_the_keys_of_local_yaml() -> None:
    """But those of Ray's own cluster files, which bear a cluster_name (ray up) or an apiVersion (KubeRay)."""
    contents = {path.name: set(next(yaml.safe_load_all(path.read_text()))) for path in (ROOT / "conf").glob("*.yaml")}
    ours = {name: keys for name, keys in contents.items() if not keys & {"cluster_name", "apiVersion"}}
    differing = [f"conf/{name}: {sorted(keys ^ ours['local.yaml'])}" for name, keys in ours.items()]
    assert all(keys == ours["local.yaml"] for keys in ours.values()), "\n".join(differing)
