"""What every command owes its user before it works: help at once, and the mistake named at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = (
    "manifest",
    "prepare",
    "anchor_stats",
    "train",
    "evaluate",
    "sweep",
    "export",
    "compare",
    "replay",
    "diagnose",
)
HEAVY = ["torch", "torchvision", "ray", "mlflow", "matplotlib", "pandas", "scipy", "optuna"]
# Runs a command as `python -m` does, then says on stderr which of the heavy packages it has imported.
RUN = f"""
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def run_command(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", RUN, f"pipeline.{name}", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_comes_without_any_heavy_package(name: str, tmp_path: Path) -> None:
    shown = run_command(name, "--help", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "\nreads " in shown.stdout
    assert shown.stderr == "[]\n"


@pytest.mark.parametrize("name", ["manifest", "prepare", "anchor_stats", "train", "evaluate", "sweep", "diagnose"])
def test_a_wrong_parameter_is_named_before_any_heavy_package_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seeed: 1\n")
    told = run_command(name, folder=tmp_path)
    assert told.returncode != 0
    assert "seeed" in told.stderr
    assert told.stderr.endswith("\n[]\n")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pipeline.train.run", ["torchvision", "torch._dynamo", "ray.train", "mlflow"]),
        ("pipeline.evaluate.run", ["torchvision", "torch._dynamo", "ray", "mlflow"]),
        ("pipeline.cluster", ["torch"]),
    ],
)
def test_driver_imports_no_detector(module: str, absent: list[str]) -> None:
    """Seconds before the first step that only the workers must spend."""
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
